#!/bin/sh
# Speed of a training step against TRL: same model, tokens, order, precision and batch; each run in its own process.
#   sh run.sh <python of TRL's environment> [rounds] [samples] [threads]
#   METHODS="lora" limits it to one method.
# TRL's environment:
#   python3 -m venv trl && trl/bin/pip install torch==2.13.0 transformers==5.23.0 peft==0.21.2 trl==1.16.0
set -eu
TRL=$(realpath -s "$1")
cd "$(dirname "$0")"
ROUNDS=${2:-3}
SAMPLES=${3:-32}
METHODS=${METHODS:-lora dora}
OMP_NUM_THREADS=${4:-$(nproc)}
OURS=${SAGETUNE_PYTHON:-../../.venv/bin/python}
export OMP_NUM_THREADS TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT

one() {
    if ! "$@" >"$WORK/out" 2>"$WORK/err"; then
        tail -n 20 "$WORK/err" >&2
        echo "failed: $*" >&2
        exit 1
    fi
    grep '^{"name"' "$WORK/out" | tee -a "$WORK/results.jsonl" >&2
}

"$OURS" make_data.py "$WORK"
for ROUND in $(seq "$ROUNDS"); do
    for METHOD in $METHODS; do
        echo "round $ROUND of $ROUNDS, $METHOD" >&2
        one "$OURS" ours.py "$WORK" "$SAMPLES" "$METHOD"
        one "$TRL" trl_side.py "$WORK" "$SAMPLES" nopack "$METHOD"
        one "$TRL" trl_side.py "$WORK" "$SAMPLES" padfree "$METHOD"
    done
done
cp "$WORK/results.jsonl" results.jsonl
"$OURS" table.py results.jsonl results.csv

#!/usr/bin/env bash
# Three seeds of the demo, and one run each on three real data sets. Usage: run.sh <folder with the data> <output folder>
set -euo pipefail
here=$(dirname "$0") data=$(realpath "$1") out=$2
PATH=$(realpath "$here/../../.venv/bin"):$PATH

for seed in 0 1 2; do
  sagetune train experiment=demo seed="$seed" sft.output_dir="$out" run_name="demo-s$seed"
done

on_file() { # name, file, further overrides
  local name=$1 file=$2
  shift 2
  python "$here/split.py" "$file" 24 "$out/data/$name"
  sagetune train data=file sft.train_data="$out/data/$name/train.jsonl" sft.eval_data="$out/data/$name/eval.jsonl" \
    sft.output_dir="$out" run_name="$name" sft.learning_rate=5e-4 sft.num_epochs=1 sft.gradient_accumulation_steps=1 "$@"
}
on_file glaive "$data/glaive_sharegpt/glaive_toolcall_en_demo.json" sft.batch_size=4 sft.max_seq_length=1024 budget.max_steps=30
on_file fireact "$data/fireact/finetune/gpt_format/hotpotqa.jsonl" sft.batch_size=4 sft.max_seq_length=1024 budget.max_steps=30
on_file tau_bench "$data/tau_bench/gpt-4o-airline.json" sft.batch_size=1 sft.max_seq_length=4096 budget.max_steps=16

python "$here/collect.py" "$out"

"""Bank: named accounts, payments and cards."""

from __future__ import annotations

from sqlite3 import Connection
from typing import Any

from sagetune.world.tools import Domain, Tool, ToolError, find, get, insert, mark


def get_balance(db: Connection, arguments: dict[str, Any]) -> Any:
    """The balance; refuses an unknown account."""
    return get("accounts", "balance")(db, {"name": arguments["account"]})


def transfer_money(db: Connection, arguments: dict[str, Any]) -> Any:
    """Move money between two accounts; refuses unknown accounts and more than the source holds."""
    held = get_balance(db, {"account": arguments["source"]})["balance"]
    get_balance(db, {"account": arguments["target"]})
    if not 0 < arguments["amount"] <= held:
        raise ToolError(f"amount must be 1 to {held}")
    for account, change in (("source", -arguments["amount"]), ("target", arguments["amount"])):
        db.execute("UPDATE accounts SET balance = balance + ? WHERE name = ?", (change, arguments[account]))
    return {"status": "transferred"}


def set_limit(db: Connection, arguments: dict[str, Any]) -> Any:
    """Limit what an account may spend; refuses an unknown account."""
    get_balance(db, arguments)
    db.execute("UPDATE accounts SET cap = ? WHERE name = ?", (arguments["amount"], arguments["account"]))
    return {"status": "updated"}


BANK = Domain(
    name="bank",
    objects="bank|balance|money|bills?|payments?|paid|pay|spending|transfers?|euros?|cards?|sum|account|limit|cash",
    tables={
        "accounts": "name:account balance:balance cap:zero",
        "payments": "payee:company amount:amount",
        "cards": "status:blank",
    },
    tools=(
        Tool(
            "get_balance", "Show the balance of an account", "account:account", get_balance,
            cue="balance|how much.*(left|hold|have|in)|what is left",
            needs=("accounts name=account",), near=("track_order", "get_contact"),
            train=(
                "[show|check] the balance< of {account}>",
                "What is the balance of [my|the] {account}?",
                "How much money do I have [in|on] [my|the] {account}?",
            ),
            dev=("[report|read] the bank balance< for {account}>", "How much cash does the {account} hold?"),
            test=("[give|name] me the current balance< on {account}>",
                  "How much money is left in {account} at the bank?"),
        ),
        Tool(
            "transfer_money", "Move money between accounts", "source:account target:account amount:amount",
            transfer_money,
            cue="transfer|move|send|shift|wire|put",
            needs=("accounts name=source", "accounts name=target"), near=("move_file", "move_email"),
            train=(
                "[transfer|move] money from {source} to {target}<, {amount} euros>",
                "[transfer|send] {amount} euros from my {source} to my {target}",
                "My {target} needs money, [transfer|move] {amount} from {source}.",
            ),
            dev=("[shift|wire|send] money out of {source} into {target}<, {amount} euros>",),
            test=("[put|route|shift] {amount} euros of {source} money into {target}, as a transfer",),
        ),
        Tool(
            "pay_bill", "Pay a company", "payee:company amount:amount", insert("payments"),
            cue="pay|settle|bill|cover",
            near=("place_order", "apply_coupon"),
            train=(
                "[pay|settle] the bill of {payee}<, {amount} euros>",
                "[pay|send] {payee}< {amount} euros> for [the|this] bill",
                "I owe {payee}< {amount} euros>, please [pay|settle] the bill.",
            ),
            dev=("[settle|clear|pay] what {payee} bills me<: {amount} euros>, so pay",),
            test=("[cover|settle|fully cover] the payment {payee} asks for<, {amount} euros>",),
        ),
        Tool(
            "list_payments", "List payments to a company", "payee:company", find("payments", "id", "amount"),
            cue="payments?.*(list|show|find|see)|(list|show|find|see|which|what).*(payments?|paid)",
            needs=("payments payee=payee",), near=("search_mail", "list_contacts"),
            train=(
                "[list|show] [my|all] payments< to {payee}>",
                "Which payments did I make to {payee}?",
                "What have I paid to {payee} so far?",
            ),
            dev=("[find|see] every past payment< that went to {payee}>", "What payments has {payee} had from me?"),
            test=("[show|find] each sum I paid< over to {payee}>", "Which sums were paid to {payee}?"),
        ),
        Tool(
            "set_limit", "Limit the spending of an account", "account:account amount:amount", set_limit,
            cue="limit|cap|restrict|at most",
            needs=("accounts name=account",), near=("set_timer", "update_phone"),
            train=(
                "[set|change] the spending limit of {account}< to {amount} euros>",
                "[limit|restrict] spending from {account}< to {amount} euros>",
                "{account} may not spend too much, [set|make] the limit {amount} euros.",
            ),
            dev=("[cap|restrict|limit] the money that {account} pays out< at {amount} euros>",),
            test=("[allow|permit] {account} to spend at most {amount} euros of money",
                  "A cap on bank spending: {account} gets {amount} euros."),
        ),
        Tool(
            "freeze_card", "Freeze a bank card", "card_id:id", mark("cards", "status", "frozen"),
            cue="freeze|lock|frozen|lost", needs=("cards id=card_id",), near=("cancel_booking",),
            dev=("[freeze|lock] card {card_id}", "I lost bank card {card_id}, [freeze|lock] it."),
        ),
        Tool(
            "open_account", "Open a new account", "name:account", insert("accounts"),
            cue="open|new account", near=("create_file", "add_contact"),
            test=("[open|start] a new account called {name}", "I would like a new account at the bank: {name}.",
                  "Open {name} as [a|my] bank account."),
        ),
    ),
)  # fmt: skip

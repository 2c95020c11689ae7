"""Mail: an inbox with senders and subjects, and what was sent out."""

from __future__ import annotations

from sqlite3 import Connection
from typing import Any

from sagetune.world.tools import Domain, Tool, change, find, get, insert, mark, remove


def forward_email(db: Connection, arguments: dict[str, Any]) -> Any:
    """Send a copy of an e-mail of the inbox; refuses an unknown id."""
    get("emails", "id")(db, {"email_id": arguments["email_id"]})
    return insert("forwards")(db, arguments)


MAIL = Domain(
    name="mail",
    objects="e-?mails?|mails?|inbox|mailbox|letters?",
    tables={
        "emails": "sender:person subject:title folder:blank starred:blank",
        "mailings": "recipient:email text:text",
        "forwards": "email_id:id recipient:email",
        "blocks": "address:email",
    },
    tools=(
        Tool(
            "send_email", "Send an email", "recipient:email text:text", insert("mailings"),
            cue="send|write|mail|email|e-mail|compose|drop|dispatch",
            near=("add_reminder", "create_note", "append_note"),
            train=(
                "[send|write] an email to {recipient}<: {text}>",
                "[send|write] {recipient} an email< that says {text}>",
                "[Please|Kindly] email {recipient}<, the text is: {text}>.",
            ),
            dev=("[compose|send off|write] a mail for {recipient}< reading: {text}>",),
            test=("[drop|dispatch|write] a short mail to {recipient}< with the words {text}>",),
        ),
        Tool(
            "search_mail", "Find emails by sender", "sender:person", find("emails", "id", "subject"),
            cue="search|find|look (for|through)|which|show|list|what|did|any|has",
            needs=("emails sender=sender",), near=("get_contact", "search_notes", "find_event"),
            train=(
                "[search|look through] my inbox for emails from {sender}",
                "[find|show] [the|all] emails that {sender} sent me",
                "Which emails did {sender} send me?",
            ),
            dev=("[list|look for] mails by {sender}", "What has {sender} written to my mailbox?"),
            test=("[find out|check] if there is any letter of {sender} in the mailbox",
                  "Has {sender} sent a mail lately?"),
        ),
        Tool(
            "delete_email", "Delete an email", "email_id:id", remove("emails"),
            cue="delete|remove|erase|trash|bin|throw|discard",
            needs=("emails id=email_id",), near=("delete_note", "delete_file", "cancel_event"),
            train=(
                "[delete|remove] [the email|email]< {email_id}>",
                "[erase|delete] the email< with id {email_id}> from my inbox",
                "Email {email_id} is [spam|junk], [delete|remove] it.",
            ),
            dev=("[trash|bin|erase] mail< number {email_id}>",),
            test=("[throw away|discard|trash] the mailbox letter< no. {email_id}>",),
        ),
        Tool(
            "forward_email", "Forward an email", "email_id:id recipient:email", forward_email,
            cue="forward|pass|relay|share|hand",
            needs=("emails id=email_id",), near=("share_file", "move_file"),
            train=(
                "[forward|pass] email {email_id}< to {recipient}>",
                "[forward|pass on] the email< with id {email_id}> to {recipient}",
                "{recipient} should see email {email_id}, [forward|pass] it.",
            ),
            dev=("[relay|pass along|hand on] mail number {email_id}< so that {recipient} gets it>",),
            test=("[share|also share|quickly share] the letter no. {email_id} from my mailbox< with {recipient}>",),
        ),
        Tool(
            "move_email", "Move an email into a folder", "email_id:id folder:folder", change("emails", "email_id"),
            cue="move|file|put|place|sort|shift",
            needs=("emails id=email_id",), near=("move_file", "move_event"),
            train=(
                "[move|put] email {email_id}< into the folder {folder}>",
                "[file|move] the email< with id {email_id}> under {folder}",
                "Email {email_id} belongs [to|in] the {folder} folder, [move|put] it there.",
            ),
            dev=("[sort|shift|place] mail number {email_id}< over to {folder}>",),
            test=("[place|stow|keep] the letter no. {email_id}< in the mailbox folder {folder}>, so move it",),
        ),
        Tool(
            "star_email", "Mark an email with a star", "email_id:id", mark("emails", "starred", "yes"),
            cue="star|starred", needs=("emails id=email_id",), near=("rate_product", "pin_note"),
            dev=("[put|set] a star on mail {email_id}", "Mail {email_id} matters, [give it a star|star it]."),
        ),
        Tool(
            "block_sender", "Block an email address", "address:email", insert("blocks"),
            cue="block|ban", near=("freeze_card",),
            test=("[block|ban] every mail of {address}", "No more letters from {address}, [block|ban] that sender."),
        ),
    ),
)  # fmt: skip

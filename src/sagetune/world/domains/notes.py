"""Notes: titled texts."""

from __future__ import annotations

from sqlite3 import Connection
from typing import Any

from sagetune.world.tools import Domain, Tool, change, get, insert, mark, remove


def append_note(db: Connection, arguments: dict[str, Any]) -> Any:
    """Add a line to a note; refuses an unknown id."""
    text = get("notes", "text")(db, {"note_id": arguments["note_id"]})["text"]
    return change("notes", "note_id")(db, {"note_id": arguments["note_id"], "text": f"{text}\n{arguments['text']}"})


def search_notes(db: Connection, arguments: dict[str, Any]) -> Any:
    """Titles of the notes whose text holds a word."""
    rows = db.execute(
        "SELECT id, title FROM notes WHERE instr(lower(text), lower(?)) ORDER BY id", (arguments["word"],)
    )
    return [{"id": row[0], "title": row[1]} for row in rows]


NOTES = Domain(
    name="notes",
    objects="notes?|notebook|memos?",
    tables={"notes": "title:title text:text pinned:blank tag:blank"},
    tools=(
        Tool(
            "create_note", "Write a new note", "title:title text:text", insert("notes"),
            cue="create|write|make|start|new|take|save|open|begin",
            near=("create_event", "add_reminder", "create_file"),
            train=(
                "[create|write] a note titled {title}<: {text}>",
                "[make|start] a note [called|named] {title}< that says: {text}>",
                "New note, please. Title {title}<, text {text}>.",
            ),
            dev=("[take|save|write] a memo under the title {title}<, reading {text}>",),
            test=("[open|begin|start] a memo headed {title}< with the content {text}>",),
        ),
        Tool(
            "read_note", "Read a note by title", "title:title", get("notes", "id", "text"),
            cue="read|open|show|what|get|display|fetch|see",
            needs=("notes title=title",), near=("find_event", "get_contact", "list_files"),
            train=(
                "[read|show] me the note [called|titled] {title}",
                "[read|get] my note {title}",
                "What does [the|my] note {title} say?",
            ),
            dev=("[display|fetch] the memo named {title}", "What is in the memo {title}?"),
            test=("I would like to [see|read] the memo headed {title}.",
                  "[read aloud|read out] the memo with the heading {title}"),
        ),
        Tool(
            "delete_note", "Delete a note", "note_id:id", remove("notes"),
            cue="delete|remove|erase|tear|throw|scrap|rid",
            needs=("notes id=note_id",), near=("delete_email", "cancel_event", "delete_reminder"),
            train=(
                "[delete|remove] [note|my note]< {note_id}>",
                "[erase|delete] the note< with id {note_id}>",
                "Note {note_id} is [outdated|done], [delete|remove] it.",
            ),
            dev=("[tear up|throw out|erase] memo< number {note_id}>",),
            test=("[get rid of|scrap|tear up] my memo< no. {note_id}>",),
        ),
        Tool(
            "append_note", "Add a line to a note", "note_id:id text:text", append_note,
            cue="append|add|attach|extend|line",
            needs=("notes id=note_id",), near=("add_reminder", "send_email"),
            train=(
                "[add|append] to note {note_id}<: {text}>",
                "[append|add] the line {text} to note {note_id}",
                "Note {note_id} needs [one more|another] line<: {text}>.",
            ),
            dev=("[extend|lengthen|expand] memo number {note_id}< by the line {text}>",),
            test=("[attach|tack on|append] a line to memo no. {note_id}<, namely {text}>",),
        ),
        Tool(
            "search_notes", "Find notes that contain a word", "word:word", search_notes,
            cue="search|find|look|which|contain|mention|locate|scan|with the word",
            needs=("notes text=word",), near=("search_mail", "find_event", "search_product"),
            train=(
                "[search|look through] my notes for [the word|anything with] {word}",
                "[find|look for] notes that [contain|mention] {word}",
                "Which notes [contain|mention] the word {word}?",
            ),
            dev=("[locate|scan for|find] every memo with the word {word}",),
            test=("[go through|scan] my notebook and find {word}", "Is {word} mentioned in a memo? Find it."),
        ),
        Tool(
            "pin_note", "Pin a note to the top", "note_id:id", mark("notes", "pinned", "yes"),
            cue="pin|top", needs=("notes id=note_id",), near=("star_email",),
            dev=("[pin|fix] memo {note_id} [to the top|at the top]", "Memo {note_id} should stay on top, pin it."),
        ),
        Tool(
            "tag_note", "Put a tag on a note", "note_id:id tag:tag", change("notes", "note_id"),
            cue="tag|label", needs=("notes id=note_id",), near=("join_team", "move_email"),
            test=("[tag|label] memo {note_id} as {tag}", "Memo {note_id} gets the [tag|label] {tag}."),
        ),
    ),
)  # fmt: skip

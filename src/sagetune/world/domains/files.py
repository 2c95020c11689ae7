"""Files: names, folders and sizes."""

from __future__ import annotations

from sagetune.world.tools import Domain, Tool, change, find, insert, mark, remove

FILES = Domain(
    name="files",
    objects="files?|documents?|directory|disk",
    tables={
        "files": "name:file folder:folder size:size packed:blank",
        "shares": "name:file person:person",
    },
    tools=(
        Tool(
            "create_file", "Create an empty file", "name:file folder:folder", insert("files"),
            cue="create|make|add|new|start|generate|open|blank",
            near=("create_note", "add_contact"),
            train=(
                "[create|make] a file [called|named] {name}< in the folder {folder}>",
                "[add|create] an empty file {name}< to {folder}>",
                "I need a new file {name}<, [put|create] it in {folder}>.",
            ),
            dev=("[start|generate|make] the document {name}< inside {folder}>",),
            test=("[set up|make|generate] a blank document {name}< under the directory {folder}>",),
        ),
        Tool(
            "delete_file", "Delete a file", "name:file", remove("files"),
            cue="delete|remove|erase|wipe|destroy|get rid",
            needs=("files name=name",), near=("delete_note", "delete_email", "delete_contact"),
            train=(
                "[delete|remove] the file< {name}>",
                "[erase|delete] {name} from my files",
                "The file {name} is [old|not needed], [delete|remove] it.",
            ),
            dev=("[wipe|clear|discard] the document< {name}>: delete it",),
            test=("[destroy|get rid of|wipe] the document< called {name}>",),
        ),
        Tool(
            "move_file", "Move a file into a folder", "name:file folder:folder", change("files", "name"),
            cue="move|put|transfer|shift|relocate|drag|carry|push",
            needs=("files name=name",), near=("move_email", "move_event"),
            train=(
                "[move|put] the file {name}< into {folder}>",
                "[move|transfer] the file {name}< to the folder {folder}>",
                "My file {name} should be in {folder}, [move|put] it there.",
            ),
            dev=("[shift|relocate|push] the document {name}< over to {folder}>",),
            test=("[drag|carry|transfer] the document {name}< across to the directory {folder}>",),
        ),
        Tool(
            "rename_file", "Rename a file", "name:file new_name:file", change("files", "name", new_name="name"),
            cue="rename|name|call|title",
            needs=("files name=name",), near=("update_phone",),
            train=(
                "[rename|call] the file {name} {new_name} [from now on|today]",
                "[rename|change the name of] the file {name}< to {new_name}>",
                "The name of the file {name} is wrong<, [rename|change] it to {new_name}>.",
            ),
            dev=("[give|assign|lend] the document {name} the name {new_name}",),
            test=("[retitle|rename|relabel] the document {name}<, the title should be {new_name}>",),
        ),
        Tool(
            "list_files", "List the files of a folder", "folder:folder", find("files", "name", "size"),
            cue="list|show|what|which|display|print|see",
            needs=("files folder=folder",), near=("list_events", "list_reminders", "search_notes"),
            train=(
                "[list|show] [the|all] files< in {folder}>",
                "Which files are in [the folder|my folder] {folder}?",
                "[What|Which] files do I keep in {folder}?",
            ),
            dev=("[display|show me] every document< kept in {folder}>", "What documents sit in {folder}?"),
            test=("[print|see] the contents of the directory< {folder}>", "Which documents lie in directory {folder}?"),
        ),
        Tool(
            "share_file", "Share a file with a person", "name:file person:person", insert("shares"),
            cue="share|access", needs=("files name=name",), near=("forward_email",),
            dev=("[share|open up] the document {name} with {person}: share access",
                 "{person} needs access to the document {name}, [share|grant] it."),
        ),
        Tool(
            "compress_file", "Compress a file", "name:file", mark("files", "packed", "yes"),
            cue="compress|zip|shrink|pack", needs=("files name=name",), near=("convert_length",),
            test=("[compress|zip] the document {name}", "The document {name} is too big, [shrink|pack] it."),
        ),
    ),
)  # fmt: skip

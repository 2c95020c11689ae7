"""Contacts: people with a phone number, an e-mail address and a city."""

from __future__ import annotations

from sagetune.world.tools import Domain, Tool, change, find, get, insert, remove

CONTACTS = Domain(
    name="contacts",
    objects="contacts?|address book|phone|number|people|birthday",
    tables={
        "contacts": "name:person phone:phone email:email city:city birthday:blank",
        "members": "name:person team:tag",
    },
    tools=(
        Tool(
            "add_contact", "Save a new contact", "name:person phone:phone", insert("contacts"),
            cue="add|save|store|create|enter|put|register|new",
            near=("add_guest", "create_note"),
            train=(
                "[add|save] {name}< with phone {phone}> to my contacts",
                "[create|store] a contact for {name}<, phone {phone}>",
                "I met {name} today, [add|save] the new contact< with phone {phone}>.",
            ),
            dev=("[enter|register|store] {name} in my address book< under {phone}>",),
            test=("[put|keep|register] a new contact named {name}< reachable at {phone}> in the address book",),
        ),
        Tool(
            "get_contact", "Look up a contact by name", "name:person", get("contacts", "phone", "email", "city"),
            cue="look up|find|get|show|what|give|need|pull up|fetch|tell",
            needs=("contacts name=name",), near=("find_event", "search_mail", "read_note"),
            train=(
                "[look up|find] [the contact|my contact] {name}",
                "[show|get] me the contact details of {name}",
                "What is the phone number of {name}?",
            ),
            dev=("[pull up|give me] what my address book says about {name}", "Tell me which phone number {name} has."),
            test=("[fetch|find] the address book entry of {name}", "I need the contact data of {name}."),
        ),
        Tool(
            "delete_contact", "Delete a contact", "name:person", remove("contacts"),
            cue="delete|remove|erase|drop|forget|strike",
            needs=("contacts name=name",), near=("delete_note", "delete_email", "delete_file"),
            train=(
                "[delete|remove] [the contact|my contact] {name}",
                "[erase|remove] {name} from my contacts",
                "I no longer need {name}, [delete|erase] the contact.",
            ),
            dev=("[drop|wipe out|erase] {name}: delete that address book entry",),
            test=("[strike|remove] {name} from the address book [for good|completely]",),
        ),
        Tool(
            "update_phone", "Change the phone number of a contact", "name:person phone:phone",
            change("contacts", "name"),
            cue="update|change|set|correct|replace|edit|fix",
            needs=("contacts name=name",), near=("set_event_place", "set_alarm"),
            train=(
                "[change|update] the phone number of {name}< to {phone}>",
                "[set|update] the phone of [my contact|contact] {name}< to {phone}>",
                "{name} has another phone, [change|update] it< to {phone}>.",
            ),
            dev=("[correct|edit|fix] the phone entry for {name}<: it should read {phone}>",),
            test=("[replace|overwrite|swap] the number of {name}< by {phone}>, so correct my address book",),
        ),
        Tool(
            "list_contacts", "List the contacts in a city", "city:city", find("contacts", "name", "email"),
            cue="list|who|which|show|all|name|count",
            needs=("contacts city=city",), near=("list_events", "search_hotels"),
            train=(
                "[list|show] [my|all] contacts< in {city}>",
                "Which [contacts|people] do I have in {city}?",
                "Who of my contacts lives in {city}?",
            ),
            dev=("[name|list] the people in my address book< from {city}>",
                 "Who in my address book is [based|at home] in {city}?"),
            test=("[go through|list] my address book and find all< who live in {city}>",
                  "Are there people I know in {city}? List them."),
        ),
        Tool(
            "set_birthday", "Store the birthday of a contact", "name:person date:date",
            change("contacts", "name", date="birthday"),
            cue="birthday|born", needs=("contacts name=name",), near=("create_event",),
            dev=(
                "[note|store] that the birthday of {name} is {date}",
                "[set|save] {date} as birthday of my contact {name}",
            ),
        ),
        Tool(
            "join_team", "Put a contact into a team", "name:person team:tag", insert("members"),
            cue="team|group", needs=("contacts name=name",), near=("tag_note",),
            test=(
                "[put|place] my contact {name} into the team {team}",
                "Contact {name} [joins|belongs to] the {team} team, [save|store] that.",
            ),
        ),
    ),
)  # fmt: skip

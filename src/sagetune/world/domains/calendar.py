"""Calendar: events with a title, a date and a time."""

from __future__ import annotations

from sagetune.world.tools import Domain, Tool, change, find, insert, remove

CALENDAR = Domain(
    name="calendar",
    objects="calendar|agenda|events?|diary",
    tables={
        "events": "title:title date:date time:time place:blank",
        "guests": "event_id:id name:person",
    },
    tools=(
        Tool(
            "create_event", "Add a calendar event", "title:title date:date time?:time", insert("events"),
            cue="add|put|schedule|create|enter|block|new|book",
            near=("add_reminder", "create_note"),
            train=(
                "[add|put] {title} [on|into] my calendar< for {date}>< at {time}>",
                "[schedule|create] an event [called|named] {title}< on {date}>< at {time}>",
                "My calendar needs a new event< on {date}>< at {time}>: {title}.",
            ),
            dev=("[enter|block] the event {title} in my agenda< for {date}>< starting {time}>",),
            test=("[book|set up] a new diary event< dated {date}>< from {time}>, title {title}",),
        ),
        Tool(
            "cancel_event", "Cancel a calendar event", "event_id:id", remove("events"),
            cue="cancel|delete|remove|drop|call off|scrap|goes?",
            needs=("events id=event_id",), near=("delete_note", "delete_reminder", "cancel_order"),
            train=(
                "[cancel|delete] [event|calendar event]< {event_id}>",
                "[remove|drop] the event< with id {event_id}> from my calendar",
                "Event {event_id} [is off|will not happen], [cancel|remove] it.",
            ),
            dev=("[call off|scrap|drop] the agenda event< number {event_id}>",),
            test=("[take|strike] event< no. {event_id}> off my diary, [cancel|delete] it for good",),
        ),
        Tool(
            "move_event", "Move an event to another date", "event_id:id date:date", change("events", "event_id"),
            cue="move|reschedule|shift|postpone|push|bring|change",
            needs=("events id=event_id",), near=("snooze_reminder", "move_file", "move_email"),
            train=(
                "[move|shift] [event|calendar event] {event_id}< to {date}>",
                "[reschedule|move] my event< with id {event_id}> so that it is on {date}",
                "Event {event_id} [does not fit|clashes with work], [reschedule|move] it< to {date}>.",
            ),
            dev=("[postpone|push|shift] agenda event {event_id}< until {date}>",),
            test=("[change|bring|push] the diary event numbered {event_id}< over to {date}>",),
        ),
        Tool(
            "list_events", "List the events of a date", "date:date", find("events", "id", "title", "time"),
            cue="list|show|what|which|tell|read|anything|look up|every|all|go through",
            needs=("events date=date",), near=("list_reminders", "list_files"),
            train=(
                "[list|show me] [my|all] events< on {date}>",
                "[What is|What do I have] on my calendar on {date}?",
                "Which events [are|do I have] on {date}?",
            ),
            dev=("[read out|tell me] my agenda< for {date}>", "Is there anything in my agenda for {date}?"),
            test=("[look up|go through] every diary event< dated {date}>",
                  "[What events|Which events] fall on {date}?"),
        ),
        Tool(
            "find_event", "Find events by title", "title:title", find("events", "id", "date", "time"),
            cue="find|search|look (for|through)|when|locate|where",
            needs=("events title=title",), near=("get_contact", "search_notes", "search_product"),
            train=(
                "[find|look for] the event [called|named] {title}",
                "[search|look through] my calendar for {title}",
                "When is [my|the] event {title}?",
            ),
            dev=("[locate|search for] the agenda event titled {title}", "At what time is the event {title}, and when?"),
            test=("[find out|check] when the diary event {title} takes place", "Where in my diary is {title}?"),
        ),
        Tool(
            "add_guest", "Invite a person to an event", "event_id:id name:person", insert("guests"),
            cue="invite|guests?|bring along", needs=("events id=event_id",), near=("add_contact",),
            dev=(
                "[invite|ask] {name} as a guest to event {event_id}",
                "Event {event_id} has one more guest, [invite|register] {name}.",
            ),
        ),
        Tool(
            "set_event_place", "Set where an event takes place", "event_id:id place:city", change("events", "event_id"),
            cue="place|location|takes? place|held", needs=("events id=event_id",), near=("update_phone",),
            test=(
                "[set|change] the place of event {event_id} to {place}",
                "Event {event_id} [will be held|takes place] in {place}, save that [location|place].",
            ),
        ),
    ),
)  # fmt: skip

"""Reminders, alarms and timers."""

from __future__ import annotations

from sagetune.world.tools import Domain, Tool, change, find, insert, mark, remove

REMINDERS = Domain(
    name="reminders",
    objects="reminders?|remind|alarms?|timer|wake|countdown|nudge",
    tables={
        "reminders": "text:text date:date time:time delay:zero done:blank repeat:blank",
        "alarms": "time:time",
        "timers": "minutes:minutes",
    },
    tools=(
        Tool(
            "add_reminder", "Add a reminder", "text:text date:date time?:time", insert("reminders"),
            cue="add|remind me|set.*reminder|create|new|nudge|make",
            near=("create_event", "create_note", "send_email"),
            train=(
                "remind me< on {date}>< at {time}> to {text}",
                "[set|create] a reminder< for {date}>< at {time}>: {text}",
                "I must {text}< on {date}>< at {time}>, [add|set] a reminder.",
            ),
            dev=("[add|make] a reminder saying {text}<, due {date}>< {time}>",),
            test=("[nudge me|make sure to remind me]< when {date} comes>< at {time}>: I have to {text}",),
        ),
        Tool(
            "list_reminders", "List the reminders of a date", "date:date", find("reminders", "id", "text", "time"),
            cue="list|show|what|which|tell|read|display",
            needs=("reminders date=date",), near=("list_events", "list_files"),
            train=(
                "[list|show] [my|all] reminders< for {date}>",
                "Which reminders [are set|do I have] for {date}?",
                "What reminders [come up|are due] on {date}?",
            ),
            dev=("[read me|tell me] each reminder< due {date}>", "Which reminders [ring|go off] when it is {date}?"),
            test=("[display|show me] whatever reminder there is< when {date} comes>",
                  "What will you remind me of once {date} is here?"),
        ),
        Tool(
            "delete_reminder", "Delete a reminder", "reminder_id:id", remove("reminders"),
            cue="delete|remove|cancel|drop|clear|dismiss",
            needs=("reminders id=reminder_id",), near=("delete_note", "cancel_event"),
            train=(
                "[delete|remove] [reminder|my reminder]< {reminder_id}>",
                "[cancel|delete] the reminder< with id {reminder_id}>",
                "Reminder {reminder_id} is [pointless|not needed], [delete|remove] it.",
            ),
            dev=("[drop|clear|dismiss] reminder< number {reminder_id}>",),
            test=("[dismiss|clear away|drop] the reminder< no. {reminder_id}> for good",),
        ),
        Tool(
            "snooze_reminder", "Delay a reminder by minutes", "reminder_id:id minutes:minutes",
            change("reminders", "reminder_id", minutes="delay"),
            cue="snooze|delay|later|postpone|hold",
            needs=("reminders id=reminder_id",), near=("move_event",),
            train=(
                "[snooze|delay] reminder {reminder_id}< by {minutes} minutes>",
                "[snooze|delay] the reminder< with id {reminder_id}> for {minutes} minutes",
                "Reminder {reminder_id} comes too early, [delay|snooze] it< {minutes} minutes>.",
            ),
            dev=("[postpone|put off|hold] reminder number {reminder_id}< another {minutes} minutes>, later is better",),
            test=("[hold|hold back|postpone] the reminder no. {reminder_id}< until {minutes} minutes have passed>",),
        ),
        Tool(
            "set_alarm", "Set an alarm", "time:time", insert("alarms"),
            cue="alarm|wake|ring",
            near=("set_limit", "create_event"),
            train=(
                "[set|start] an alarm< for {time}>",
                "wake me [up|please]< at {time}>",
                "I get up at {time}, [set|make] an alarm.",
            ),
            dev=("let an alarm [ring|sound|start]< when it is {time}>",),
            test=("[program|arm|wind] the alarm clock< to go off at {time}>",),
        ),
        Tool(
            "set_timer", "Start a timer", "minutes:minutes", insert("timers"),
            cue="timer|count ?down",
            near=("set_alarm", "days_between"),
            train=(
                "[set|start] a timer< for {minutes} minutes>",
                "[start|run] a {minutes} minute timer",
                "The food needs {minutes} minutes, [set|start] a timer.",
            ),
            dev=("[begin|launch|start] a countdown< of {minutes} minutes>",),
            test=("[wind|run|set] the kitchen timer< down from {minutes} minutes>",),
        ),
        Tool(
            "complete_reminder", "Mark a reminder as done", "reminder_id:id", mark("reminders", "done", "yes"),
            cue="done|complete|finished", needs=("reminders id=reminder_id",), near=("star_email",),
            dev=("[mark|tick] reminder {reminder_id} as done",
                 "I finished it: reminder {reminder_id} is [done|complete]."),
        ),
        Tool(
            "repeat_reminder", "Repeat a reminder", "reminder_id:id repeat:interval",
            change("reminders", "reminder_id"),
            cue="repeat|recurring|again", needs=("reminders id=reminder_id",), near=("snooze_reminder",),
            test=("[repeat|renew] reminder {reminder_id} {repeat}, again and again",
                  "Reminder {reminder_id} should [repeat|be recurring] {repeat}."),
        ),
    ),
)  # fmt: skip

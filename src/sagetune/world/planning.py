"""Family `planning`: two to six dependent calls, then a short answer; later arguments come from earlier results."""

from __future__ import annotations

from functools import cache

from sagetune.world import skills
from sagetune.world.domains import TOOLS
from sagetune.world.phrasing import expand, fill
from sagetune.world.skills import Scene, Skill
from sagetune.world.task import Task, add_noise, offer, rng_of
from sagetune.world.tools import Rows
from sagetune.world.values import parse_fields

SKILLS: tuple[Skill, ...] = (
    Skill(
        "email_contact", ("get_contact", "send_email"), "person:person text:text",
        skills.one_contact, skills.email_contact, ("contacts",),
        train=("[look up|find] {person} in my contacts and [send|write] them an email: {text}",
               "[write|send] an email to {person} saying {text}, the address is in my contacts"),
        dev=("[mail|message] the person {person} ({text}) using the address in my [address book|phone book]",),
        test=("take the address of {person} out of the contact list, then mail there [these|the] words: {text}",),
    ),
    Skill(
        "forward_from", ("search_mail", "get_contact", "forward_email"), "sender:person person:person",
        skills.contact_and_mail, skills.forward_from, ("contacts", "emails"),
        train=("[forward|pass] the email that {sender} sent me to my contact {person}",
               "[find|search] the email from {sender} and [forward|pass] it to {person} from my contacts"),
        dev=("let {person} have what {sender} mailed me, [relay|hand on] it to the address in my address book",),
        test=("{person} has to get a copy of the letter in the inbox by {sender}: [relay|share] it, the contact is "
              "stored.",),
    ),
    Skill(
        "mail_note", ("read_note", "get_contact", "send_email"), "title:title person:person",
        skills.contact_and_note, skills.mail_note, ("contacts", "notes"),
        train=("[send|email] the text of my note {title} to my contact {person}",
               "[read|open] the note {title} and [send|email] what it says to {person} from my contacts"),
        dev=("mail {person} the content of the memo {title}, [the address book has|my contacts hold] the address",),
        test=("take whatever memo {title} says and [write|dispatch] it to {person}, who is in the address book",),
    ),
    Skill(
        "write_city", ("list_contacts", "send_email"), "city:city text:text",
        skills.contacts_in_city, skills.write_city, ("contacts",),
        train=("[send|write] an email to every contact in {city}: {text}",
               "[find|list] my contacts in {city} and [email|write to] each of them: {text}"),
        dev=("mail all people that I know in {city} [one by one|separately], saying {text}",),
        test=("Everybody in my address book who lives in {city} [should|must] get a mail with the words {text}.",),
    ),
    Skill(
        "move_named", ("find_event", "move_event"), "title:title date:date",
        skills.one_event, skills.move_named, ("events",),
        train=("[move|shift] my event {title} to {date}",
               "[find|look up] the event {title} and [reschedule|move] it to {date}"),
        dev=("[postpone|push] what my agenda calls {title} until {date}",),
        test=("The diary has {title} on the wrong day, [change|correct] that day to {date}.",),
    ),
    Skill(
        "remind_of", ("find_event", "add_reminder"), "title:title text:text",
        skills.one_event, skills.remind_of, ("events", "reminders"),
        train=("remind me on the [day|date] of my event {title}: {text}",
               "[find|look up] the event {title} and set a reminder for that date: {text}"),
        dev=("When {title} from my agenda takes place I have to {text}, [set|make] a reminder that day.",),
        test=("[nudge|alert] me to {text} on whatever date my diary gives for {title}, as a reminder",),
    ),
    Skill(
        "clear_day", ("list_events", "cancel_event"), "date:date",
        skills.full_day, skills.clear_day, ("events",),
        train=("[cancel|delete] all [my events|events] on {date}",
               "I am [ill|away] on {date}, [cancel|remove] every event of that day"),
        dev=("[clear|empty] my whole agenda for {date}, [nothing|no event] may stay",),
        test=("{date} must become [free|empty]: strike each entry of this day from [the|my] diary.",),
    ),
    Skill(
        "days_apart", ("find_event", "days_between"), "title:title other:title",
        skills.two_events, skills.days_apart, ("events",),
        train=("How many days are between my events {title} and {other}?",
               "[find|look up] the events {title} and {other} and [count|compute] the days between them"),
        dev=("[work out|determine] how long in days it is from {title} until {other} in my agenda",),
        test=("By how many days does {other} come after {title} in my [diary|calendar]?",),
    ),
    Skill(
        "empty_folder", ("list_files", "delete_file"), "folder:folder",
        skills.full_folder, skills.empty_folder, ("files",),
        train=("[delete|remove] every file in the folder {folder}",
               "[list|find] the files in {folder} and [delete|erase] [all of them|each]"),
        dev=("[wipe|empty] the folder {folder}, [all|any] documents in it can go",),
        test=("No document may remain in the directory {folder}, [destroy|discard] [them all|each one].",),
    ),
    Skill(
        "move_folder", ("list_files", "move_file"), "folder:folder target:folder",
        skills.full_folder, skills.move_folder, ("files",),
        train=("[move|put] every file of the folder {folder} into {target}",
               "[list|find] the files in {folder} and [move|put] each of them into {target}"),
        dev=("[shift|carry] all documents out of {folder} and over to {target}",),
        test=("Whatever document lies in the directory {folder} [belongs|must go] to the directory {target}.",),
    ),
    Skill(
        "from_fuller", ("get_balance", "transfer_money"),
        "first:account second:account target:account amount:amount",
        skills.three_accounts, skills.from_fuller, ("accounts",),
        train=("[transfer|move] {amount} euros to {target}, from {first} or {second}, whichever holds more",
               "[check|compare] {first} and {second}, then [transfer|send] {amount} euros from the fuller one to "
               "{target}"),
        dev=("Of {first} and {second}, let the richer one [give|wire] {amount} euros to {target}.",),
        test=("{target} needs {amount} euros: take them out of {first} unless {second} has a [larger|greater] "
              "balance, then of that.",),
    ),
    Skill(
        "order_and_track", ("search_product", "place_order", "track_order"), "product:product count:count",
        skills.one_product, skills.order_and_track, ("products", "orders"),
        train=("[order|buy] {count} of the {product} and tell me when [the order arrives|it arrives]",
               "[find|search] the {product} in the shop, [order|buy] {count} and track the order"),
        dev=("[purchase|get] {count} pieces of the article {product}, and report the day of delivery",),
        test=("We want the item {product}, {count} times; [purchase|acquire] it and say the arrival date.",),
    ),
    Skill(
        "cost_note", ("search_product", "multiply", "create_note"), "product:product count:count title:title",
        skills.one_product, skills.cost_note, ("products", "notes"),
        train=("[find|compute] what {count} of the {product} cost and write the total in a note titled {title}",
               "How much are {count} of the {product}? [Save|Write] the total as a note titled {title}."),
        dev=("[price|estimate] a purchase of {count} times the {product}, and keep the total in the memo {title}",),
        test=("The memo {title} should hold the full price of {product}, {count} pieces; [create|begin] it.",),
    ),
    Skill(
        "cheaper_product", ("search_product", "place_order"), "product:product other:product count:count",
        skills.two_products, skills.cheaper_product, ("products",),
        train=("[order|buy] {count} of the {product} or the {other}, whichever is cheaper",
               "[compare|check] the prices of the {product} and the {other}, then [order|buy] {count} of the "
               "cheaper one"),
        dev=("Between {product} and {other} I take what costs less, [purchase|get] {count} of it.",),
        test=("[purchase|acquire] {count} pieces of the item with the lower price, {product} against {other}",),
    ),
    Skill(
        "affordable_order",
        ("search_product", "multiply", "get_balance", "place_order", "track_order", "add_reminder"),
        "product:product count:count account:account text:text",
        skills.product_and_account, skills.affordable_order, ("products", "orders", "accounts", "reminders"),
        train=("If {account} holds enough for {count} of the {product}, [order|buy] them and on arrival remind me: "
               "{text}.",
               "[order|buy] {count} of the {product} if {account} can pay, then set a reminder on the arrival "
               "date: {text}"),
        dev=("[purchase|get] {count} times the {product}, but only when {account} covers it; at delivery I must "
             "{text}, so remind me",),
        test=("Provided {account} suffices, [acquire|purchase] {product}, {count} pieces, with a nudge to {text} "
              "the day they come.",),
    ),
    Skill(
        "cheapest_flight", ("search_flights", "book_flight"),
        "origin:city destination:city date:date person:person",
        skills.some_flights, skills.cheapest_flight, ("flights", "bookings"),
        train=("[book|reserve] the cheapest flight from {origin} to {destination} on {date} for {person}",
               "[find|search] flights from {origin} to {destination} on {date} and [book|reserve] the cheapest for "
               "{person}"),
        dev=("{person} has to be in {destination} on {date}, leaving {origin}, so [get|secure] the least expensive "
             "plane.",),
        test=("[buy|secure] {person} a plane seat out of {origin} into {destination}, date {date}, at the lowest "
              "fare",),
    ),
    Skill(
        "fly_and_enter", ("search_flights", "book_flight", "create_event"),
        "origin:city destination:city date:date person:person title:title",
        skills.some_flights, skills.fly_and_enter, ("flights", "bookings"),
        train=("[book|reserve] {person} the cheapest flight from {origin} to {destination} on {date} and add the "
               "event {title} that day",
               "{person} flies from {origin} to {destination} on {date}: [book|reserve] the cheapest, then create "
               "the event {title}."),
        dev=("[get|secure] the least expensive plane {origin} to {destination} for {person}, {date}, and enter "
             "{title} in my agenda then",),
        test=("Lowest fare from {origin} into {destination}, {date}, passenger {person}: [buy|take] it; the diary "
              "gets {title} for the day.",),
    ),
    Skill(
        "whole_trip", ("search_flights", "book_flight", "search_hotels", "book_hotel", "create_event"),
        "origin:city destination:city date:date person:person nights:small title:title",
        skills.flights_and_hotels, skills.whole_trip, ("flights", "bookings"),
        train=("[book|reserve] {person} the cheapest flight from {origin} to {destination} on {date}, the cheapest "
               "hotel there for "
               "{nights} nights, and add the event {title} that day",),
        dev=("[arrange|organise] a trip for {person}: least expensive plane {origin} to {destination}, {date}, a "
             "room at the lowest "
             "price over {nights} nights, and {title} in my agenda",),
        test=("Lowest fare out of {origin} into {destination} for {person}, {date}, plus {nights} nights in the "
              "least costly hotel; "
              "[mark|write] {title} into the diary.",),
    ),
)  # fmt: skip


def planning(split: str, seed: int, index: int) -> Task:
    """Task `index`: skills take turns in an order drawn from the seed; up to two surplus tools are offered."""
    order = _order(split, seed)
    skill, count = order[index % len(order)], index // len(order)
    kinds = {name: kind for name, (kind, _) in parse_fields(skill.fields).items()}
    filled = fill(expand(skill.phrases(split)), kinds, split, count, f"planning/{split}/{seed}/{skill.name}")
    rng = rng_of("planning", split, seed, index)
    rows: Rows = {}
    for table in skill.tables:
        add_noise(rows, table, split, rng, filled.values)
    skill.setup(Scene(rows, split, rng, tuple(filled.values.values())), filled.values)
    needed = [TOOLS[name] for name in skill.tools]
    return Task(
        "planning", split, seed, index,
        kind=skill.name,
        user=filled.text,
        tools=offer(needed, filled.template.carrier, split, rng, max(4, len(needed) + rng.choice((0, 1)))),
        values=filled.values,
        solve=skill.solve,
        rows=rows,
        called=tuple(tool.name for tool in needed),
    )  # fmt: skip


@cache
def _order(split: str, seed: int) -> tuple[Skill, ...]:
    order = list(SKILLS)
    rng_of("skills", split, seed).shuffle(order)
    return tuple(order)

"""The planning skills: what a request says, the rows it meets, and how the expert solves it step by step."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from sagetune.world.task import Call, Reply, add_row, reply
from sagetune.world.tools import Rows
from sagetune.world.values import pool

Values = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Scene:
    """The state being set up for one task."""

    rows: Rows
    split: str
    rng: Random
    taken: tuple[Any, ...]

    def add(self, table: str, **known: Any) -> dict[str, Any]:
        """Add a row with the known columns, the others random."""
        return add_row(self.rows, table, self.split, self.rng, **known)

    def draw(self, kind: str, count: int) -> list[Any]:
        """Distinct random values, none of which the request states: a price must be looked up."""
        drawn = self.rng.sample(pool(kind, self.split), count + len(self.taken))
        return [value for value in drawn if value not in self.taken][:count]


@dataclass(frozen=True, slots=True)
class Skill:
    """One kind of plan: `fields` are the slots of its requests, `tools` what `solve` calls, `tables` get noise rows."""

    name: str
    tools: tuple[str, ...]
    fields: str
    setup: Callable[[Scene, Values], None]
    solve: Callable[[Call, Values], Reply]
    tables: tuple[str, ...]
    train: tuple[str, ...]
    dev: tuple[str, ...]
    test: tuple[str, ...]

    def phrases(self, split: str) -> tuple[str, ...]:
        """The grammar strings of `split`."""
        return {"train": self.train, "dev": self.dev, "test": self.test}[split]


def cheapest(offers: list[dict[str, Any]]) -> dict[str, Any]:
    """The offer with the lowest price."""
    return min(offers, key=lambda item: item["price"])


# -- contacts, mail, notes


def one_contact(scene: Scene, values: Values) -> None:
    """The person asked for."""
    scene.add("contacts", name=values["person"])


def email_contact(call: Call, values: Values) -> Reply:
    """2 calls."""
    email = call("get_contact", name=values["person"])["email"]
    call("send_email", recipient=email, text=values["text"])
    return reply("I wrote to {}.", email)


def contact_and_mail(scene: Scene, values: Values) -> None:
    """The receiver, and one e-mail of the sender."""
    one_contact(scene, values)
    scene.add("emails", sender=values["sender"])


def forward_from(call: Call, values: Values) -> Reply:
    """3 calls."""
    email_id = call("search_mail", sender=values["sender"])[0]["id"]
    recipient = call("get_contact", name=values["person"])["email"]
    call("forward_email", email_id=email_id, recipient=recipient)
    return reply("Email {} went to {}.", email_id, recipient)


def contact_and_note(scene: Scene, values: Values) -> None:
    """The receiver, and the note."""
    one_contact(scene, values)
    scene.add("notes", title=values["title"])


def mail_note(call: Call, values: Values) -> Reply:
    """3 calls."""
    text = call("read_note", title=values["title"])["text"]
    recipient = call("get_contact", name=values["person"])["email"]
    call("send_email", recipient=recipient, text=text)
    return reply("I sent the note to {}.", recipient)


def contacts_in_city(scene: Scene, values: Values) -> None:
    """Two or three people in the city."""
    for name, email in zip(
        scene.draw("person", count := scene.rng.choice((2, 3))), scene.draw("email", count), strict=True
    ):
        scene.add("contacts", name=name, email=email, city=values["city"])


def write_city(call: Call, values: Values) -> Reply:
    """3 or 4 calls."""
    people = call("list_contacts", city=values["city"])
    for person in people:
        call("send_email", recipient=person["email"], text=values["text"])
    return reply("I wrote to " + " and ".join(["{}"] * len(people)) + ".", *(person["name"] for person in people))


# -- calendar, reminders


def one_event(scene: Scene, values: Values) -> None:
    """The event asked for, on another day than the request's."""
    scene.add("events", title=values["title"], date=scene.draw("date", 1)[0])


def move_named(call: Call, values: Values) -> Reply:
    """2 calls."""
    event_id = call("find_event", title=values["title"])[0]["id"]
    call("move_event", event_id=event_id, date=values["date"])
    return reply("Event {} is now on {}.", event_id, values["date"])


def remind_of(call: Call, values: Values) -> Reply:
    """2 calls."""
    day = call("find_event", title=values["title"])[0]["date"]
    call("add_reminder", text=values["text"], date=day)
    return reply("The reminder is set for {}.", day)


def full_day(scene: Scene, values: Values) -> None:
    """Two or three events on the day."""
    for _ in range(scene.rng.choice((2, 3))):
        scene.add("events", date=values["date"])


def clear_day(call: Call, values: Values) -> Reply:
    """3 or 4 calls."""
    events = call("list_events", date=values["date"])
    for event in events:
        call("cancel_event", event_id=event["id"])
    return reply("Cancelled " + " and ".join(["{}"] * len(events)) + ".", *(event["id"] for event in events))


def two_events(scene: Scene, values: Values) -> None:
    """Both events, the first before the second."""
    first, second = sorted(scene.draw("date", 2))
    scene.add("events", title=values["title"], date=first)
    scene.add("events", title=values["other"], date=second)


def days_apart(call: Call, values: Values) -> Reply:
    """3 calls."""
    start = call("find_event", title=values["title"])[0]["date"]
    end = call("find_event", title=values["other"])[0]["date"]
    return reply("There are {} days between them.", call("days_between", start=start, end=end)["result"])


# -- files, bank


def full_folder(scene: Scene, values: Values) -> None:
    """Two or three files in the folder."""
    for name in scene.draw("file", scene.rng.choice((2, 3))):
        scene.add("files", name=name, folder=values["folder"])


def empty_folder(call: Call, values: Values) -> Reply:
    """3 or 4 calls."""
    names = [file["name"] for file in call("list_files", folder=values["folder"])]
    for name in names:
        call("delete_file", name=name)
    return reply("Deleted " + " and ".join(["{}"] * len(names)) + ".", *names)


def move_folder(call: Call, values: Values) -> Reply:
    """3 or 4 calls."""
    names = [file["name"] for file in call("list_files", folder=values["folder"])]
    for name in names:
        call("move_file", name=name, folder=values["target"])
    return reply("Moved " + " and ".join(["{}"] * len(names)) + ".", *names)


def three_accounts(scene: Scene, values: Values) -> None:
    """Two accounts that differ, and the one that receives."""
    for name, balance in zip(("first", "second", "target"), scene.draw("balance", 3), strict=True):
        scene.add("accounts", name=values[name], balance=balance)


def from_fuller(call: Call, values: Values) -> Reply:
    """3 calls."""
    first = call("get_balance", account=values["first"])["balance"]
    second = call("get_balance", account=values["second"])["balance"]
    source = values["first"] if first > second else values["second"]
    call("transfer_money", source=source, target=values["target"], amount=values["amount"])
    return reply("They held {} and {}, so I used the {}.", first, second, source)


# -- shop


def one_product(scene: Scene, values: Values) -> None:
    """The product, with enough of it; an account that may or may not pay for it."""
    price = scene.draw("price", 1)[0]
    scene.add("products", name=values["product"], price=price, stock=scene.draw("stock", 1)[0])


def order_and_track(call: Call, values: Values) -> Reply:
    """3 calls."""
    product = call("search_product", name=values["product"])[0]
    order_id = call("place_order", product_id=product["id"], quantity=values["count"])["id"]
    return reply("Order {} arrives on {}.", order_id, call("track_order", order_id=order_id)["arrives"])


def cost_note(call: Call, values: Values) -> Reply:
    """3 calls."""
    price = call("search_product", name=values["product"])[0]["price"]
    total = call("multiply", a=price, b=values["count"])["result"]
    call("create_note", title=values["title"], text=str(total))
    return reply("The total of {} is in your note.", total)


def two_products(scene: Scene, values: Values) -> None:
    """Both products at different prices, enough of each."""
    for name, price in zip(("product", "other"), scene.draw("price", 2), strict=True):
        scene.add("products", name=values[name], price=price, stock=scene.draw("stock", 1)[0])


def cheaper_product(call: Call, values: Values) -> Reply:
    """3 calls."""
    first = call("search_product", name=values["product"])[0]
    second = call("search_product", name=values["other"])[0]
    call("place_order", product_id=cheapest([first, second])["id"], quantity=values["count"])
    return reply("The prices are {} and {}, I ordered product {}.", first["price"], second["price"],
                 cheapest([first, second])["id"])  # fmt: skip


def product_and_account(scene: Scene, values: Values) -> None:
    """The product, and an account that holds enough in three of four cases."""
    price = scene.draw("price", 1)[0]
    total = price * values["count"]
    scene.add("products", name=values["product"], price=price, stock=scene.draw("stock", 1)[0])
    funds = pool("funds", scene.split)
    enough = bisect_left(funds, total)
    nearby = funds[enough : enough + 300] if scene.rng.random() < 0.75 else funds[max(0, enough - 300) : enough]
    scene.add("accounts", name=values["account"], balance=scene.rng.choice(nearby))


def affordable_order(call: Call, values: Values) -> Reply:
    """6 calls, or 3 if the account does not hold enough."""
    product = call("search_product", name=values["product"])[0]
    total = call("multiply", a=product["price"], b=values["count"])["result"]
    balance = call("get_balance", account=values["account"])["balance"]
    if total > balance:
        return reply("It costs {}, but there is only {}.", total, balance)
    order_id = call("place_order", product_id=product["id"], quantity=values["count"])["id"]
    arrives = call("track_order", order_id=order_id)["arrives"]
    call("add_reminder", text=values["text"], date=arrives)
    return reply("It costs {} of {}, order {} arrives on {}.", total, balance, order_id, arrives)


# -- travel


def some_flights(scene: Scene, values: Values) -> None:
    """Two or three flights at different prices."""
    for price in scene.draw("price", scene.rng.choice((2, 3))):
        scene.add("flights", price=price, **{name: values[name] for name in ("origin", "destination", "date")})


def cheapest_flight(call: Call, values: Values) -> Reply:
    """2 calls."""
    flight = cheapest(call("search_flights", **{name: values[name] for name in ("origin", "destination", "date")}))
    call("book_flight", flight_id=flight["id"], passenger=values["person"])
    return reply("I booked flight {} for {} euros.", flight["id"], flight["price"])


def fly_and_enter(call: Call, values: Values) -> Reply:
    """3 calls."""
    booked = cheapest_flight(call, values)
    call("create_event", title=values["title"], date=values["date"])
    return booked


def flights_and_hotels(scene: Scene, values: Values) -> None:
    """Flights, and two hotels at different prices in the destination."""
    some_flights(scene, values)
    for price in scene.draw("price", 2):
        scene.add("hotels", city=values["destination"], price=price)


def whole_trip(call: Call, values: Values) -> Reply:
    """5 calls."""
    booked = cheapest_flight(call, values)
    hotel = cheapest(call("search_hotels", city=values["destination"]))
    call("book_hotel", hotel_id=hotel["id"], nights=values["nights"])
    call("create_event", title=values["title"], date=values["date"])
    return reply("I booked flight {} for {} euros and {}.", *booked.keys, hotel["name"])

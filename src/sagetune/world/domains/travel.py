"""Travel: flights, hotels and bookings."""

from __future__ import annotations

from sqlite3 import Connection
from typing import Any

from sagetune.world.tools import Domain, Tool, find, get, insert, mark, remove


def book_flight(db: Connection, arguments: dict[str, Any]) -> Any:
    """Book a seat; refuses an unknown flight."""
    get("flights", "id")(db, {"flight_id": arguments["flight_id"]})
    return insert("bookings")(db, {"item": "flight", "item_id": arguments["flight_id"], "name": arguments["passenger"]})


def book_hotel(db: Connection, arguments: dict[str, Any]) -> Any:
    """Book a room; refuses an unknown hotel."""
    get("hotels", "id")(db, {"hotel_id": arguments["hotel_id"]})
    return insert("bookings")(db, {"item": "hotel", "item_id": arguments["hotel_id"], "nights": arguments["nights"]})


TRAVEL = Domain(
    name="travel",
    objects="flights?|fly|flying|hotels?|bookings?|rooms?|planes?|reservations?|car|stay",
    tables={
        "flights": "origin:city destination:city date:date price:price",
        "hotels": "name:hotel city:city price:price",
        "bookings": "item:blank item_id:id name:person nights:zero status:blank",
        "rentals": "city:city days:small",
    },
    tools=(
        Tool(
            "search_flights", "Find flights", "origin:city destination:city date:date", find("flights", "id", "price"),
            cue="(search|find|look for|which|are there|show|list|check).*(flights?|planes?|fly)|fly from",
            needs=("flights origin=origin destination=destination date=date",), near=("list_events", "search_product"),
            train=(
                "[find|search] flights from {origin} to {destination}< on {date}>",
                "Which flights [go|are there] from {origin} to {destination} on {date}?",
                "I want to fly from {origin} to {destination}< on {date}>, [find|show] flights.",
            ),
            dev=("[look for|check|find] a plane out of {origin} into {destination}< on {date}>",),
            test=("[show|list|find] planes that leave {origin} for {destination}< on {date}>",),
        ),
        Tool(
            "book_flight", "Book a flight", "flight_id:id passenger:person", book_flight,
            cue="(book|reserve|buy|take|secure|get).*(flight|plane|seat)|(flight|plane).*(book|reserve|buy|secure)",
            needs=("flights id=flight_id",), near=("place_order", "create_event"),
            train=(
                "[book|reserve] flight {flight_id}< for {passenger}>",
                "[book|reserve] a seat< for {passenger}> on flight {flight_id}",
                "{passenger} takes flight {flight_id}, [book|reserve] it.",
            ),
            dev=("[get|secure|take] plane number {flight_id}< in the name of {passenger}>",),
            test=("[buy|secure|get] a plane seat on no. {flight_id}< with passenger {passenger}>",),
        ),
        Tool(
            "search_hotels", "Find hotels in a city", "city:city", find("hotels", "id", "name", "price"),
            cue="(search|find|look for|which|what|are there|list|check|show|need|where).*(hotels?|rooms?|stay)",
            needs=("hotels city=city",), near=("list_contacts", "search_product"),
            train=(
                "[find|search] [hotels|a hotel]< in {city}>",
                "Which hotels [are there|can I get] in {city}?",
                "[show|look for] hotels< in {city}>",
            ),
            dev=("[check|list] places to stay, any hotel< around {city}>", "What hotels does {city} have?"),
            test=("find a room to stay< within {city}>",
                  "[I will be in|I travel to] {city} and need a room, so which hotels exist?"),
        ),
        Tool(
            "book_hotel", "Book a hotel room", "hotel_id:id nights:small", book_hotel,
            cue="(book|reserve|take|get|secure).*(hotel|rooms?)|hotel.*(book|reserve|secure)",
            needs=("hotels id=hotel_id",), near=("place_order",),
            train=(
                "[book|reserve] hotel {hotel_id}< for {nights} nights>",
                "[book|reserve] a room in hotel {hotel_id}<, {nights} nights>",
                "I stay {nights} nights in hotel {hotel_id}, [book|reserve] it.",
            ),
            dev=("[get|secure|book] me a room at hotel number {hotel_id}< over {nights} nights>",),
            test=("[take|secure|get] hotel no. {hotel_id}< and keep the room {nights} nights>",),
        ),
        Tool(
            "cancel_booking", "Cancel a booking", "booking_id:id", remove("bookings"),
            cue="cancel|drop|undo|release|give up|withdraw",
            needs=("bookings id=booking_id",), near=("cancel_order", "cancel_event"),
            train=(
                "[cancel|drop] [booking|my booking]< {booking_id}>",
                "[cancel|undo] the booking< with id {booking_id}>",
                "We do not travel, [cancel|drop] booking {booking_id}.",
            ),
            dev=("[release|give up|drop] the reservation< number {booking_id}>",),
            test=("[withdraw|take back|release] my reservation< no. {booking_id}> and cancel it",),
        ),
        Tool(
            "check_in", "Check in for a booking", "booking_id:id", mark("bookings", "status", "checked in"),
            cue="check.?in|check me in", needs=("bookings id=booking_id",), near=("track_order",),
            dev=("check in for the reservation {booking_id}", "do the check-in of booking number {booking_id}",
                 "Reservation {booking_id} is mine, [check me in|do the check-in]."),
        ),
        Tool(
            "rent_car", "Rent a car", "city:city days:small", insert("rentals"),
            cue="rent|car", near=("book_flight",),
            test=("[rent|hire] a car in {city} for {days} days",
                  "For {days} days in {city} we [rent|want to rent] a car."),
        ),
    ),
)  # fmt: skip

"""The domains of the world, and every tool by name."""

from __future__ import annotations

from functools import cache

from sagetune.world.domains.bank import BANK
from sagetune.world.domains.calendar import CALENDAR
from sagetune.world.domains.contacts import CONTACTS
from sagetune.world.domains.files import FILES
from sagetune.world.domains.mail import MAIL
from sagetune.world.domains.notes import NOTES
from sagetune.world.domains.numbers import NUMBERS
from sagetune.world.domains.reminders import REMINDERS
from sagetune.world.domains.shop import SHOP
from sagetune.world.domains.travel import TRAVEL
from sagetune.world.tools import Domain, Tool

_ALL = (CALENDAR, MAIL, FILES, SHOP, TRAVEL, BANK, NOTES, NUMBERS, CONTACTS, REMINDERS)
DOMAINS: dict[str, Domain] = {domain.name: domain for domain in _ALL}
TOOLS: dict[str, Tool] = {tool.name: tool for domain in _ALL for tool in domain.tools}
DOMAIN_OF: dict[str, Domain] = {tool.name: domain for domain in _ALL for tool in domain.tools}
TABLES: dict[str, str] = {table: fields for domain in _ALL for table, fields in domain.tables.items()}
TABLE_DOMAIN: dict[str, Domain] = {table: domain for domain in _ALL for table in domain.tables}


@cache
def tools_in(split: str) -> tuple[Tool, ...]:
    """The tools that occur in `split`: the shared ones, and those held out for it."""
    return tuple(tool for tool in TOOLS.values() if tool.phrases(split))


def is_unseen(tool: Tool) -> bool:
    """True if the tool never occurs in train, neither called nor offered."""
    return not tool.train

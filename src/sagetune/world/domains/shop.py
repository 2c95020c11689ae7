"""Shop: products with price and stock, orders, and a cart."""

from __future__ import annotations

from sqlite3 import Connection
from typing import Any

from sagetune.world.tools import Domain, Tool, ToolError, change, find, get, insert, mark


def place_order(db: Connection, arguments: dict[str, Any]) -> Any:
    """Take the quantity out of stock and note the order; refuses an unknown product and more than there is."""
    product = get("products", "id", "stock", "ships")(db, {"product_id": arguments["product_id"]})
    if not 0 < arguments["quantity"] <= product["stock"]:
        raise ToolError(f"quantity must be 1 to {product['stock']}")
    db.execute("UPDATE products SET stock = stock - ? WHERE id = ?", (arguments["quantity"], product["id"]))
    return insert("orders")(db, {**arguments, "arrives": product["ships"], "status": "placed"})


SHOP = Domain(
    name="shop",
    objects="shop|products?|orders?|cart|purchases?|items?|articles?",
    tables={
        "products": "name:product price:price stock:count ships:date",
        "orders": "product_id:id quantity:count arrives:date status:blank coupon:blank",
        "carts": "product_id:id quantity:count",
        "ratings": "product_id:id stars:stars",
    },
    tools=(
        Tool(
            "search_product", "Find products by name", "name:product", find("products", "id", "price", "stock"),
            cue="search|find|look|sell|have|does|price|cost|much",
            needs=("products name=name",), near=("find_event", "search_notes", "search_hotels"),
            train=(
                "[search|look in] the shop for a {name}",
                "[find|look up] the product {name}",
                "[Does the shop have|Does the shop sell] a {name}?",
            ),
            dev=("[look around|search] for the article {name} that your shop may sell",
                 "At what price does the shop sell the {name}?"),
            test=("[check|find out] what the {name} would cost in your shop", "How much is the item {name}?"),
        ),
        Tool(
            "place_order", "Order a product", "product_id:id quantity:count", place_order,
            cue="order|buy|purchase|get me|need",
            needs=("products id=product_id stock=quantity",), near=("book_flight", "book_hotel"),
            train=(
                "[order|buy|get me]< {quantity} pieces of> product {product_id}",
                "[order|buy] product {product_id}<, {quantity} of them>",
                "I need product {product_id}<, [order|buy] {quantity}>.",
            ),
            dev=("[purchase|get me|buy]< {quantity} units of> the article {product_id}",),
            test=("make a purchase of item {product_id}<, {quantity} times>",
                  "[We need|I need to buy]< {quantity} of> item {product_id}."),
        ),
        Tool(
            "cancel_order", "Cancel an order", "order_id:id", mark("orders", "status", "cancelled"),
            cue="cancel|stop|drop|revoke|undo|withdraw|call back",
            needs=("orders id=order_id",), near=("cancel_event", "cancel_booking"),
            train=(
                "[cancel|stop] [order|my order]< {order_id}>",
                "[cancel|drop] the order< with id {order_id}>",
                "I changed my mind about order {order_id}, [cancel|stop] it.",
            ),
            dev=("[revoke|undo|call back] shop order< number {order_id}>",),
            test=("[withdraw|take back|revoke] my purchase< no. {order_id}> and undo it",),
        ),
        Tool(
            "track_order", "Show status and arrival of an order", "order_id:id", get("orders", "status", "arrives"),
            cue="track|where|status|when|arrives?|progress|trace|follow",
            needs=("orders id=order_id",), near=("get_balance", "find_event"),
            train=(
                "[track|trace] [order|my order]< {order_id}>",
                "Where is [my order|order] {order_id}?",
                "When does [my order|order] {order_id} arrive?",
            ),
            dev=("[follow|check the progress of] shop order< number {order_id}>",
                 "What is the status of order {order_id}?"),
            test=("[tell me|say] where purchase no. {order_id} is", "Will purchase {order_id} arrive soon, and when?"),
        ),
        Tool(
            "add_to_cart", "Put a product into the cart", "product_id:id quantity:count", insert("carts"),
            cue="cart",
            near=("move_file", "create_note"),
            train=(
                "[add|put]< {quantity} of> product {product_id} [to|in] my cart",
                "[put|place] product {product_id} in the cart<, {quantity} pieces>",
                "Product {product_id} goes into my cart<, {quantity} times>.",
            ),
            dev=("[drop|lay|throw]< {quantity} units of> article {product_id} into the cart",),
            test=("[load|fill|stock] the cart with item {product_id}<, quantity {quantity}>",),
        ),
        Tool(
            "apply_coupon", "Use a coupon for an order", "order_id:id coupon:word", change("orders", "order_id"),
            cue="coupon|voucher|code", needs=("orders id=order_id",), near=("pay_bill",),
            dev=("[use|apply] the coupon {coupon} for order {order_id}",
                 "Order {order_id} gets a discount, [use|apply] the code {coupon}."),
        ),
        Tool(
            "rate_product", "Rate a product with stars", "product_id:id stars:stars", insert("ratings"),
            cue="rate|stars|rating", near=("tag_note",),
            test=("[rate|score] item {product_id} with {stars} stars",
                  "Item {product_id} deserves a rating of {stars} stars."),
        ),
    ),
)  # fmt: skip

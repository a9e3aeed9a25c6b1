"""The sample shop: a seeded catalogue with pictures and a year of events, for those who have none at hand."""

from __future__ import annotations

import bisect
import datetime
import itertools
import math
import os
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matching.errors import AlreadyExists, InvalidInput, MissingExtra

if TYPE_CHECKING:
    from index_builder.sample.pictures import Rgb

COLOURS: Mapping[str, Rgb] = {
    "brick red": (186, 74, 62),
    "coral": (228, 122, 104),
    "mustard": (222, 174, 72),
    "sage green": (146, 168, 138),
    "forest green": (58, 98, 76),
    "teal": (54, 124, 128),
    "sky blue": (132, 174, 202),
    "navy": (46, 66, 104),
    "lavender": (166, 150, 196),
    "dusty pink": (212, 158, 164),
    "plum": (112, 66, 98),
    "sand": (214, 194, 162),
    "chocolate": (110, 76, 58),
    "charcoal": (74, 76, 82),
    "ivory": (240, 234, 220),
    "stone grey": (164, 164, 160),
}
_PATTERN_WORDS = {
    "plain": "",
    "striped": "Striped",
    "dotted": "Dotted",
    "checked": "Checked",
    "zigzag": "Zigzag",
    "speckled": "Speckled",
}
_START = datetime.datetime(2025, 1, 1)
_DAYS = 365


@dataclass(frozen=True, slots=True)
class _Kind:
    """A type of product; `summer` is how much more it sells in July than in January, -1 to 1."""

    name: str
    category: str
    nouns: tuple[str, ...]
    materials: tuple[str, ...]
    patterns: str
    price: float
    summer: float
    sizes: tuple[str, ...]
    praise: tuple[str, ...]
    use: tuple[str, ...]


# fmt: off
_KINDS = (
    _Kind("mug", "Mugs & Cups", ("Mug", "Coffee Mug", "Tea Mug"), ("ceramic", "stoneware",
           "porcelain"), "pppsdczk", 14, -.3,
          ("250 ml", "350 ml", "450 ml"), ("keeps its warmth in the hand",
           "has a wide handle that fits three fingers", "is glazed inside and out"),
          ("for the first coffee of the day", "for tea at the desk", "dishwasher and microwave safe")),
    _Kind("tumbler", "Mugs & Cups", ("Travel Cup", "Coffee-to-go Cup"), ("steel", "bamboo", "ceramic"), "ppsdz", 21, .1,
          ("300 ml", "400 ml", "500 ml"), ("does not drip", "has a silicone sleeve that never gets hot",
           "fits under most coffee machines"),
          ("for the way to work", "for trains and cup holders", "lid and sleeve come off for cleaning")),
    _Kind("table lamp", "Lamps", ("Table Lamp", "Bedside Lamp", "Desk Lamp"), ("linen", "cotton",
           "ceramic"), "pppsdc", 59, -.7,
          ("E14", "E27"), ("spreads a warm, even light", "stands on a heavy foot", "has a switch in the cable"),
          ("for reading in bed", "for a quiet corner", "bulb not included")),
    _Kind("pendant lamp", "Lamps", ("Pendant Lamp", "Ceiling Lamp"), ("steel", "glass", "ceramic",
           "bamboo"), "ppppsk", 89, -.6,
          ("30 cm", "40 cm", "50 cm"), ("throws its light down on the table", "hangs from a cable of 1.5 m",
           "does not dazzle"),
          ("above the dining table", "for kitchens and hallways", "for LED bulbs up to 12 W")),
    _Kind("backpack", "Bags", ("Backpack", "Daypack", "Laptop Backpack"), ("canvas", "polyester",
           "leather"), "pppsczk", 74, .3,
          ("16 l", "20 l", "25 l"), ("carries light, with padded straps", "has a sleeve for a 15-inch laptop",
           "keeps the rain out"),
          ("for school, office and weekend", "for day hikes", "with a hidden pocket at the back")),
    _Kind("tote bag", "Bags", ("Tote Bag", "Shopper", "Beach Bag"), ("canvas", "cotton", "leather",
           "linen"), "ppsdczk", 36, .6,
          ("one size", "large"), ("takes a week's shopping", "has handles long enough for the shoulder", "folds flat"),
          ("for market and beach", "for books and vegetables", "with an inner pocket for keys")),
    _Kind("t-shirt", "Tops", ("T-Shirt", "Tee"), ("cotton", "linen", "polyester"), "pppssdck", 24, .8,
          ("XS-L", "S-XL", "S-XXL"), ("keeps its shape after washing", "has a soft, dense weave",
           "sits easy on the shoulders"),
          ("for warm days", "for sport and leisure", "pre-washed, will not shrink")),
    _Kind("sweater", "Tops", ("Sweater", "Jumper", "Pullover"), ("wool", "knit", "cotton"), "pppssdcz", 69, -.8,
          ("XS-L", "S-XL", "S-XXL"), ("is warm without weight", "does not scratch", "has ribbed cuffs and hem"),
          ("for cold mornings", "for layers", "wash by hand or in the wool programme")),
    _Kind("dress", "Dresses", ("Summer Dress", "Midi Dress", "Tea Dress"), ("cotton", "linen",
           "polyester"), "ppsddczk", 64, .9,
          ("34-42", "36-44", "36-48"), ("swings when you turn", "is cut to a narrow waist", "has pockets"),
          ("for garden parties", "for the office and after", "with a hidden zip at the side")),
    _Kind("sneaker", "Shoes", ("Sneaker", "Trainers", "Low-top Sneaker"), ("canvas", "suede", "leather",
           "knit"), "ppppsck", 84, .3,
          ("36-42", "39-46", "36-46"), ("cushions every step", "breathes on hot days", "needs no breaking in"),
          ("for the city", "for long walks", "removable insole")),
    _Kind("boot", "Shoes", ("Ankle Boot", "Winter Boot", "Rain Boot"), ("leather", "suede",
           "resin"), "pppppdc", 119, -.9,
          ("36-42", "39-46"), ("keeps feet dry", "grips on wet leaves", "is lined with warm fleece"),
          ("for rain and slush", "for autumn forests", "sole can be replaced")),
    _Kind("watch", "Watches", ("Watch", "Wristwatch", "Field Watch"), ("leather", "steel",
           "canvas"), "pppppsc", 139, -.2,
          ("36 mm", "38 mm", "41 mm"), ("has a dial one reads at a glance", "runs for three years on one battery",
           "is water resistant to 50 m"),
          ("for every day", "for the field and the theatre", "strap changes without tools")),
    _Kind("headphones", "Audio", ("Headphones", "Wireless Headphones", "Over-ear Headphones"), ("leather", "resin",
           "steel"), "ppppsk", 129, -.4,
          ("30 h battery", "45 h battery"), ("shuts out the noise of the train", "sits light for hours",
           "folds into its case"),
          ("for music and calls", "for travel", "charges over USB-C in an hour")),
    _Kind("speaker", "Audio", ("Speaker", "Bluetooth Speaker", "Bookshelf Speaker"), ("oak", "walnut", "resin",
           "concrete"), "ppppks", 109, .1,
          ("10 W", "20 W", "40 W"), ("fills a room without shouting", "has a clear, deep bass",
           "pairs with a second one for stereo"),
          ("for kitchen and balcony", "for records and radio", "plays 12 hours on one charge")),
    _Kind("chair", "Chairs", ("Dining Chair", "Chair", "Kitchen Chair"), ("oak", "wool", "linen",
           "leather"), "pppsczk", 129, 0.,
          ("set of 1", "set of 2"), ("supports the back where it matters", "stacks four high",
           "stands firm on uneven floors"),
          ("for the dining table", "for the home office", "legs screw on in five minutes")),
    _Kind("armchair", "Chairs", ("Armchair", "Reading Chair", "Lounge Chair"), ("wool", "linen", "leather",
           "cotton"), "pppsczd", 349, -.3,
          ("78 cm", "84 cm"), ("is deep enough to tuck the feet up", "has a seat that springs back",
           "comes with a washable cover"),
          ("for long evenings", "for readers", "delivered assembled")),
    _Kind("plant", "Plants", ("Potted Plant", "House Plant", "Foliage Plant"), ("terracotta", "ceramic",
           "concrete"), "ppsdzk", 29, .4,
          ("40 cm", "60 cm", "80 cm"), ("forgives a forgotten watering", "cleans the air",
           "puts out a new leaf every month"),
          ("for bright rooms", "for north windows", "with a pot and saucer")),
    _Kind("cactus", "Plants", ("Cactus", "Column Cactus"), ("terracotta", "ceramic", "concrete"), "ppsdzk", 19, .5,
          ("15 cm", "25 cm", "40 cm"), ("wants water once a month", "flowers in early summer",
           "grows slowly and lives long"),
          ("for sunny sills", "for people who travel", "with a pot")),
    _Kind("water bottle", "Bottles", ("Water Bottle", "Drinking Bottle", "Sports Bottle"), ("steel", "glass",
           "resin"), "ppsdzk", 22, .8,
          ("500 ml", "750 ml", "1 l"), ("is tight in any position", "tastes of nothing but water",
           "fits the bottle cage"),
          ("for sport and school", "for hikes", "free of plasticisers")),
    _Kind("thermos", "Bottles", ("Vacuum Flask", "Thermos Flask", "Insulated Bottle"), ("steel",
           "resin"), "pppsz", 34, -.5,
          ("500 ml", "750 ml", "1 l"), ("keeps tea hot for 12 hours", "pours without dripping",
           "has a lid that is a cup"),
          ("for winter walks", "for the building site", "double-walled")),
    _Kind("cushion", "Cushions & Rugs", ("Cushion", "Throw Pillow", "Sofa Cushion"), ("cotton", "linen", "wool",
           "knit"), "ppssddcczk", 27, -.4,
          ("40 x 40 cm", "45 x 45 cm", "40 x 60 cm"), ("is filled with soft down", "has a hidden zip",
           "keeps its plump shape"),
          ("for sofa and bed", "for window seats", "cover washes at 30 degrees")),
    _Kind("rug", "Cushions & Rugs", ("Rug", "Woven Rug", "Carpet"), ("wool", "cotton", "linen"), "psscczzdk", 149, -.5,
          ("80 x 120 cm", "120 x 180 cm", "160 x 230 cm"), ("warms cold floors", "lies flat and does not slip",
           "is woven on both sides"),
          ("for the living room", "beside the bed", "vacuum, do not wash")),
)
# fmt: on
_PATTERNS = {"p": "plain", "s": "striped", "d": "dotted", "c": "checked", "z": "zigzag", "k": "speckled"}
_GROUPS = {
    "Mugs & Cups": "Kitchen",
    "Bottles": "Kitchen",
    "Lamps": "Home",
    "Chairs": "Home",
    "Plants": "Home",
    "Cushions & Rugs": "Home",
    "Tops": "Fashion",
    "Dresses": "Fashion",
    "Shoes": "Fashion",
    "Bags": "Accessories",
    "Watches": "Accessories",
    "Audio": "Electronics",
}
# Brand, its price level, and the groups it sells in.
_BRANDS: tuple[tuple[str, float, tuple[str, ...]], ...] = (
    ("Norrhavn", 1.5, ("Home", "Kitchen")),
    ("Tilde & Oak", 1.2, ("Home", "Kitchen")),
    ("Morgenrot", 0.8, ("Home", "Kitchen")),
    ("Casa Lumo", 1.0, ("Home",)),
    ("Plainware", 0.6, ("Home", "Kitchen", "Fashion")),
    ("Ferro Nero", 1.7, ("Kitchen", "Accessories")),
    ("Brookline Mill", 1.0, ("Fashion", "Accessories")),
    ("Vela Blanca", 1.3, ("Fashion", "Accessories")),
    ("Saltmarsh", 1.1, ("Fashion", "Accessories")),
    ("Kobo Kids", 0.7, ("Fashion", "Home")),
    ("Atelier Quince", 1.9, ("Fashion", "Accessories", "Home")),
    ("Runaway Fox", 0.8, ("Fashion", "Accessories")),
    ("Meridian 9", 1.6, ("Accessories", "Electronics")),
    ("Oktave", 1.3, ("Electronics",)),
    ("Hertzwerk", 1.8, ("Electronics",)),
    ("Pocket Parade", 0.7, ("Electronics", "Accessories")),
)
_FEELS = ("Classic", "Everyday", "Soft", "Little", "Nordic", "Studio", "Heritage", "Modern", "Sunday", "Weekend")
_LINES = [
    "Alba",
    "Birk",
    "Cove",
    "Dune",
    "Elm",
    "Fjord",
    "Gale",
    "Haze",
    "Isla",
    "Juno",
    "Kite",
    "Lark",
    "Mora",
    "Nova",
    "Onda",
    "Pine",
    "Quay",
    "Rill",
    "Sol",
    "Tarn",
    "Ursa",
    "Vale",
    "Wren",
    "Yarrow",
]


def write_sample_shop(directory: str | os.PathLike[str], *, n_products: int = 2000, seed: int = 0) -> Path:
    """Write a small shop and return the path of its catalogue; the same seed gives the same bytes.

    The folder gets `products.parquet`, `images.parquet` and `images/` (a main picture a product, a second one for about
    three in ten; one in a hundred products has none), and `events.parquet` with a year of views, carts and purchases:
    event_id, user_id, session_id, item_id, event_type, timestamp, quantity, price.

    Args:
        directory: a new or empty folder.
        n_products: how many products; users and events grow with it.
        seed: fixes everything. The bytes also depend on the versions of Pillow and PyArrow.

    Raises:
        InvalidInput: `n_products` is below 1.
        AlreadyExists: the folder is not empty.
        MissingExtra: Pillow is not installed.
    """
    if n_products < 1:
        raise InvalidInput(f"[sample] n_products is {n_products}; expected at least 1")
    root = Path(directory)
    root.mkdir(parents=True, exist_ok=True)
    if any(root.iterdir()):
        raise AlreadyExists(f"[sample] {root} is not empty; expected a new folder; choose another or empty it")
    products = list(itertools.islice(_products(random.Random(f"{seed}/products")), n_products))  # noqa: S311
    pictures = list(_pictures(root, products))
    _write(root / "images.parquet", pictures, _image_schema())
    events = list(_events(random.Random(f"{seed}/events"), products))  # noqa: S311
    _write(root / "events.parquet", events, _event_schema())
    rows = [{name: value for name, value in product.items() if not name.startswith("_")} for product in products]
    _write(root / "products.parquet", rows, _product_schema())
    return root / "products.parquet"


def _products(rng: random.Random) -> Iterator[dict[str, Any]]:
    """Yield products for ever: families of one design in one to four colours."""
    codes: set[str] = set()
    for family in itertools.count():
        kind = rng.choices(_KINDS, weights=[4 / math.sqrt(kind.price) for kind in _KINDS])[0]
        group = _GROUPS[kind.category]
        brand, level, _ = rng.choice([brand for brand in _BRANDS if group in brand[2]])
        pattern, material = _PATTERNS[rng.choice(kind.patterns)], rng.choice(kind.materials)
        noun, line, feel, design = rng.choice(kind.nouns), rng.choice(_LINES), rng.choice(_FEELS), rng.randrange(10_000)
        style, praise, use = rng.randrange(4), rng.sample(kind.praise, 2), rng.sample(kind.use, 2)
        dear = {"leather": 1.35, "wool": 1.2, "walnut": 1.3, "oak": 1.15, "steel": 1.1, "polyester": 0.8, "resin": 0.85}
        middle = kind.price * level * dear.get(material, 1.0) * math.exp(rng.gauss(0, 0.22))
        for colour in rng.sample(list(COLOURS), rng.choice((1, 1, 2, 2, 3, 4))):
            accent = rng.choice([name for name in COLOURS if _contrast(COLOURS[name], COLOURS[colour]) > 120])
            size = rng.choice(kind.sizes)
            code = _model_number(rng, brand)
            while code in codes:
                code = _model_number(rng, brand)
            codes.add(code)
            words = [feel if style == 0 else "", _PATTERN_WORDS[pattern], material.title(), noun]
            name = " ".join(filter(None, words))
            titles = (
                f"{name} {line}, {colour}",
                f"{line} {name} in {colour.title()}",
                f"{colour.title()} {name} {size}",
                f"{brand} {line} {noun} {code}",
            )
            shade = f"{colour} and {accent}" if pattern != "plain" else colour
            weave = f"{pattern} {material}" if pattern != "plain" else material
            uses = " ".join(f"{text[0].upper()}{text[1:]}." for text in use)
            description = (
                f"{_article(noun)} {noun.lower()} of {weave} in {shade} from our {line} line. "
                f"It {praise[0]} and {praise[1]}. {uses} Size: {size}. Model {code}."
            )
            yield {
                "id": f"{code.lower()}",
                "title": titles[style],
                "description": None if rng.random() < 0.02 else description,
                "category": kind.category,
                "category_path": [group, kind.category, noun],
                "brand": brand,
                "price": _price(middle * math.exp(rng.gauss(0, 0.03))),
                "currency": "EUR",
                "image_path": None,
                "color": colour,
                "material": material,
                "pattern": pattern,
                "size": size,
                "model_number": code,
                "item_group_id": f"family-{family:05d}",
                "stock": 0 if rng.random() < 0.06 else int(rng.lognormvariate(3.2, 1.0)) + 1,
                "rating": round(min(5.0, max(2.0, rng.gauss(4.2, 0.4))), 1),
                "_kind": kind,
                "_level": level,
                "_day": 0 if rng.random() < 0.85 else rng.randrange(20, _DAYS - 10),
                "_colours": (colour, accent),
                "_design": design,
                "_n_pictures": rng.choices((0, 1, 2), weights=(1, 69, 30))[0],
            }


def _pictures(root: Path, products: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Draw the pictures, name them in their products and yield the rows of the picture table."""
    try:
        from index_builder.sample.pictures import Look, draw
    except ImportError as error:
        raise MissingExtra(
            "[sample] Pillow is not installed; it draws the pictures; pip install 'likewise[encode]'"
        ) from error
    for product in products:
        colour, accent = (COLOURS[name] for name in product["_colours"])
        look = Look(product["_kind"].name, colour, accent, product["pattern"], product["material"], product["_design"])
        for view in range(product["_n_pictures"]):
            path = f"images/{product['id'][:2]}/{product['id']}_{view}.jpg"
            data = draw(look, view=view)
            file = root / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
            if view == 0:
                product["image_path"] = path
            yield {
                "image_path": path,
                "product_id": product["id"],
                "role": "alt" if view else "main",
                "width": 224,
                "height": 224,
                "bytes": len(data),
            }


def _events(rng: random.Random, products: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield a year of events in time order.

    A user has favourite categories and brands and a price band. A session wants one category, chosen by taste and
    season, and
    walks through it: half of its steps go to a like item (the same family or type), the others to a popular one; what
        suits the
    user's taste is looked at more, put in the cart more and bought more. A popularity skew as in real shops comes from
    Zipf weights.
    """
    ranks = rng.sample(range(1, len(products) + 1), len(products))
    popularity = [
        (rank + 8) ** -0.9 * (1.4 if p["rating"] >= 4.4 else 1.0) for p, rank in zip(products, ranks, strict=True)
    ]
    shelves = _Shelves(products, popularity)
    n_users = max(1, len(products) * 6 // 10)
    users = [_User.drawn(rng, f"u{n:05d}", shelves.categories) for n in range(n_users)]
    activity = list(itertools.accumulate(rng.paretovariate(1.3) for _ in users))
    sessions = sorted((_moment(rng), n) for n in range(n_users * 10))
    rows: list[tuple[datetime.datetime, dict[str, Any]]] = []
    for start, session in sessions:
        user = users[bisect.bisect(activity, rng.random() * activity[-1], hi=n_users - 1)]
        for when, item, event_type in _session(rng, start, user, shelves):
            row = {
                "user_id": user.user_id,
                "session_id": f"s{session:06d}",
                "item_id": products[item]["id"],
                "event_type": event_type,
                "timestamp": when,
                "quantity": rng.choices((1, 2, 4), weights=(88, 10, 2))[0] if event_type == "purchase" else 1,
                "price": products[item]["price"],
            }
            rows.append((when, row))
    rows.sort(key=lambda row: (row[0], row[1]["session_id"]))
    for event_id, (_, row) in enumerate(rows):
        yield {"event_id": event_id, **row}


class _Shelves:
    """Items by category, family and type, each with its popularity: where a visitor's eyes go."""

    def __init__(self, products: Sequence[dict[str, Any]], popularity: Sequence[float]) -> None:
        self.products = products
        self._popularity = popularity
        self._shelves: dict[tuple[str, object], tuple[list[int], list[float]]] = {}
        for item, product in enumerate(products):
            for key in (
                ("category", product["category"]),
                ("kind", product["_kind"].name),
                ("family", product["item_group_id"]),
            ):
                items, sums = self._shelves.setdefault(key, ([], []))
                items.append(item)
                sums.append((sums[-1] if sums else 0.0) + popularity[item])
        self.categories = sorted({product["category"] for product in products})
        self.summer = {product["category"]: product["_kind"].summer for product in products}

    def pick(self, rng: random.Random, by: str, value: object) -> int:
        items, sums = self._shelves[by, value]
        return items[bisect.bisect(sums, rng.random() * sums[-1], hi=len(items) - 1)]


@dataclass(frozen=True, slots=True)
class _User:
    user_id: str
    categories: Mapping[str, float]
    brands: frozenset[str]
    level: float
    colours: frozenset[str]

    @classmethod
    def drawn(cls, rng: random.Random, user_id: str, categories: Sequence[str]) -> _User:
        return cls(
            user_id,
            {category: rng.gammavariate(0.35, 1.0) + 0.01 for category in categories},
            frozenset(rng.sample([brand[0] for brand in _BRANDS], 3)),
            math.exp(rng.gauss(0, 0.35)),
            frozenset(rng.sample(list(COLOURS), 5)),
        )

    def liking(self, product: Mapping[str, Any]) -> float:
        """How well a product suits this user, 0 to 1."""
        dear = math.exp(-2.5 * math.log(product["_level"] / self.level) ** 2)
        return (0.2 + 0.4 * (product["brand"] in self.brands) + 0.4 * (product["color"] in self.colours)) * dear


def _session(
    rng: random.Random, start: datetime.datetime, user: _User, shelves: _Shelves
) -> Iterator[tuple[datetime.datetime, int, str]]:
    season = -math.cos(2 * math.pi * start.timetuple().tm_yday / _DAYS)  # -1 in January, 1 in July
    weights = [user.categories[name] * math.exp(1.2 * season * shelves.summer[name]) for name in shelves.categories]
    category = rng.choices(shelves.categories, weights=weights)[0]
    day = (start - _START).days
    when, last = start, None
    for _ in range(min(30, 1 + int(rng.expovariate(1 / 4)))):
        for _ in range(6):
            step = rng.random()
            if last is not None and step < 0.25:
                item = shelves.pick(rng, "family", shelves.products[last]["item_group_id"])
            elif last is not None and step < 0.5:
                item = shelves.pick(rng, "kind", shelves.products[last]["_kind"].name)
            else:
                item = shelves.pick(rng, "category", category)
            product = shelves.products[item]
            if product["_day"] <= day and item != last and rng.random() < 0.15 + user.liking(product):
                break
        else:
            continue
        yield when, item, "view"
        last = item
        liking = user.liking(product)
        if product["stock"] and rng.random() < 0.04 + 0.3 * liking:
            yield when + datetime.timedelta(seconds=rng.randint(5, 90)), item, "cart"
            if rng.random() < 0.35 + 0.3 * liking:
                yield when + datetime.timedelta(seconds=rng.randint(120, 900)), item, "purchase"
        when += datetime.timedelta(seconds=rng.randint(8, 150))


def _moment(rng: random.Random) -> datetime.datetime:
    """A time in the year: busier towards Christmas, on Sundays and in the evening."""
    while True:
        day = rng.randrange(_DAYS)
        date = _START + datetime.timedelta(days=day)
        rush = math.exp(-(((day - 338) / 16) ** 2)) + 0.25 * (date.weekday() == 6)
        if rng.random() < (0.6 + rush) / 1.9:
            break
    hour = min(23.99, max(0.0, rng.gauss(20, 2.2) if rng.random() < 0.55 else rng.gauss(12.5, 3.5)))
    return date + datetime.timedelta(seconds=int(hour * 3600))


def _contrast(a: Rgb, b: Rgb) -> float:
    return math.dist(a, b)


def _article(noun: str) -> str:
    return "An" if noun[0] in "AEIO" else "A"


def _price(value: float) -> float:
    return round(max(3.0, round(value)) - (0.01 if value < 40 else 0.1 if value < 120 else 0.0), 2)


def _model_number(rng: random.Random, brand: str) -> str:
    letters = "".join(char for char in brand.upper() if char.isalpha())
    return f"{letters[0]}{letters[len(letters) // 2]}-{rng.randrange(100, 10_000)}{rng.choice(('', '', 'A', 'B', 'X'))}"


def _texts(*names: str) -> list[Any]:
    import pyarrow as pa

    return [pa.field(name, pa.string()) for name in names]


def _write(path: Path, rows: Sequence[Mapping[str, Any]], schema: Any) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), path, compression="zstd", row_group_size=1 << 16)


def _product_schema() -> Any:
    import pyarrow as pa

    return pa.schema(
        [
            *_texts("id", "title", "description", "category"),
            pa.field("category_path", pa.list_(pa.string())),
            pa.field("brand", pa.string()),
            pa.field("price", pa.float64()),
            *_texts("currency", "image_path", "color", "material", "pattern", "size", "model_number", "item_group_id"),
            pa.field("stock", pa.int64()),
            pa.field("rating", pa.float64()),
        ]
    )


def _image_schema() -> Any:
    import pyarrow as pa

    return pa.schema(
        [
            *_texts("image_path", "product_id", "role"),
            pa.field("width", pa.int32()),
            pa.field("height", pa.int32()),
            pa.field("bytes", pa.int64()),
        ]
    )


def _event_schema() -> Any:
    import pyarrow as pa

    return pa.schema(
        [
            pa.field("event_id", pa.int64()),
            *_texts("user_id", "session_id", "item_id", "event_type"),
            pa.field("timestamp", pa.timestamp("ms")),
            pa.field("quantity", pa.int32()),
            pa.field("price", pa.float64()),
        ]
    )

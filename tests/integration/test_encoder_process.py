"""The encoder process with real encoders: same vectors, batches, bad pictures, crashes, stalls, full queues, the end."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import time
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import numpy as np
import psutil
import pytest
from PIL import Image

from embeddings import Content, ImageEncoder, TextEncoder, load_encoder
from matching.encoder_spec import EncoderSpec
from matching.errors import DeadlineExceeded, InvalidContent, InvalidQuery, Unavailable
from serving.encoder_process import EncoderProcess
from serving.settings import ServingSettings

T = TypeVar("T")
TEXTS = ["black leather boots", "Olympus E-520 digital camera", "oat milk 1 l", "a", "ünïcödé 漢字", "boots " * 200]


class Counts:
    """Observes an encoder process."""

    def __init__(self) -> None:
        self.batches: list[tuple[str, int]] = []
        self.n_restarts = 0

    def encoded(self, space: str, n_contents: int, seconds: float) -> None:
        assert seconds >= 0
        self.batches.append((space, n_contents))

    def restarted(self) -> None:
        self.n_restarts += 1


@pytest.fixture(scope="module")
def specs() -> Mapping[str, EncoderSpec]:
    text = TextEncoder().fit(["black boots", "a digital camera", "milk", "leather shoes"])
    image = ImageEncoder(n_workers=1)
    features = image.features([picture(shade) for shade in range(0, 250, 25)])
    fitted = image.fit(features)
    found = {"text": text.spec(), "image": fitted.spec()}
    image.close()
    return found


def picture(shade: int) -> bytes:
    pixels = np.random.default_rng(shade).integers(0, 1 + shade, (40, 60, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def soon(seconds: float = 20.0) -> float:
    return time.monotonic() + seconds


@asynccontextmanager
async def running(
    specs: Mapping[str, EncoderSpec], counts: Counts | None = None, **settings: Any
) -> AsyncIterator[EncoderProcess]:
    encoders = EncoderProcess(specs, settings=ServingSettings(**settings), observer=counts)
    encoders.start()
    try:
        await until(lambda: encoders.is_ready)
        yield encoders
    finally:
        await encoders.stop()


async def until(is_so: Any, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, "waited too long"
        await asyncio.sleep(0.02)


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


def test_vectors_are_those_of_the_encoder_itself(specs: Mapping[str, EncoderSpec]) -> None:
    async def work() -> None:
        counts = Counts()
        async with running(specs, counts) as encoders:
            jobs = [encoders.encode("text", Content(text=text), deadline=soon()) for text in TEXTS]
            jobs += [encoders.encode("image", Content(image=picture(90)), deadline=soon())]
            *texts, image = await asyncio.gather(*jobs)
        ours = load_encoder(specs["text"])
        assert isinstance(ours, TextEncoder)
        vectors, sparse = ours.encode([Content(text=text) for text in TEXTS]), ours.sparse(TEXTS)
        for row, encoded in enumerate(texts):
            np.testing.assert_allclose(encoded.vector, vectors[row], atol=1e-5)
            part = slice(sparse.offsets[row], sparse.offsets[row + 1])
            assert encoded.sparse is not None
            assert encoded.sparse.offsets.tolist() == [0, part.stop - part.start]
            np.testing.assert_array_equal(encoded.sparse.dimensions, sparse.dimensions[part])
            np.testing.assert_allclose(encoded.sparse.values, sparse.values[part], atol=1e-6)
        theirs = load_encoder(specs["image"])
        np.testing.assert_allclose(image.vector, theirs.encode([Content(image=picture(90))])[0], atol=1e-5)
        assert image.sparse is None
        theirs.close()
        assert sum(n for space, n in counts.batches if space == "text") == len(TEXTS)
        assert max(n for _, n in counts.batches) > 1, "what waited together should have been encoded together"
        assert counts.n_restarts == 0

    run(work())


def test_a_bad_picture_is_refused_alone(specs: Mapping[str, EncoderSpec]) -> None:
    async def work() -> None:
        counts = Counts()
        async with running(specs, counts) as encoders:
            contents = [picture(10), b"\x89PNG\r\n\x1a\n broken", picture(20), picture(30)[:-40]]
            jobs = [encoders.encode("image", Content(image=content), deadline=soon()) for content in contents]
            first, broken, third, _ = await asyncio.gather(*jobs, return_exceptions=True)
            assert isinstance(broken, InvalidContent)
            assert str(broken).startswith("[encode] its picture")
            assert not isinstance(first, BaseException)
            assert not isinstance(third, BaseException)
            assert abs(float(np.linalg.norm(first.vector)) - 1) < 1e-4
            assert counts.n_restarts == 0

    run(work())


def test_a_space_is_asked_only_what_its_encoder_reads(specs: Mapping[str, EncoderSpec]) -> None:
    async def work() -> None:
        async with running(specs) as encoders:
            with pytest.raises(InvalidQuery, match="space 'text' cannot be asked by image; its encoder reads text"):
                await encoders.encode("text", Content(image=picture(1)), deadline=soon())

    run(work())


def test_a_crash_is_told_and_mended(specs: Mapping[str, EncoderSpec]) -> None:
    async def work() -> None:
        counts = Counts()
        async with running({"text": specs["text"]}, counts) as encoders:
            pid = encoders.pid
            assert pid is not None
            os.kill(pid, signal.SIGSTOP)
            waiting = asyncio.create_task(encoders.encode("text", Content(text="boots"), deadline=soon()))
            await asyncio.sleep(0.1)
            assert not waiting.done()
            os.kill(pid, signal.SIGKILL)
            with pytest.raises(Unavailable, match="fell over; try again"):
                await waiting
            await until(lambda: not encoders.is_ready)
            with pytest.raises(Unavailable, match="not ready"):
                await encoders.encode("text", Content(text="boots"), deadline=soon())
            await until(lambda: encoders.is_ready)
            assert encoders.pid != pid
            assert (await encoders.encode("text", Content(text="boots"), deadline=soon())).vector.shape == (384,)
            assert counts.n_restarts == 1

    run(work())


def test_a_stalled_process_is_not_ready_and_is_replaced(specs: Mapping[str, EncoderSpec]) -> None:
    async def work() -> None:
        async with running({"text": specs["text"]}, encoder_stuck_s=1.0) as encoders:
            pid = encoders.pid
            assert pid is not None
            assert await encoders.ping(5.0)
            os.kill(pid, signal.SIGSTOP)
            assert not await encoders.ping(0.2)
            await until(lambda: encoders.is_ready and encoders.pid != pid)
            assert not psutil.pid_exists(pid)

    run(work())


def test_time_and_queue_are_limited(specs: Mapping[str, EncoderSpec]) -> None:
    async def work() -> None:
        counts = Counts()
        async with running({"text": specs["text"]}, counts, encoder_queue=3, encoder_batch=2) as encoders:
            assert encoders.pid is not None
            os.kill(encoders.pid, signal.SIGSTOP)
            under_way = asyncio.create_task(encoders.encode("text", Content(text="one"), deadline=soon()))
            await asyncio.sleep(0.05)
            late = [asyncio.create_task(encoders.encode("text", Content(text=t), deadline=soon(0.2))) for t in "ab"]
            waiting = asyncio.create_task(encoders.encode("text", Content(text="three"), deadline=soon()))
            await asyncio.sleep(0.05)
            with pytest.raises(Unavailable, match="3 contents wait already"):
                await encoders.encode("text", Content(text="four"), deadline=soon())
            for task in late:
                with pytest.raises(DeadlineExceeded, match="no answer within the time given"):
                    await task
            os.kill(encoders.pid, signal.SIGCONT)
            await asyncio.gather(under_way, waiting)
            assert counts.batches == [("text", 1), ("text", 1)], "nobody encodes for those who have given up"

    run(work())


def test_the_process_ends_with_its_service(specs: Mapping[str, EncoderSpec]) -> None:
    async def work() -> None:
        async with running(specs) as encoders:
            await encoders.encode("image", Content(image=picture(5)), deadline=soon())
            assert encoders.pid is not None
            family = [psutil.Process(encoders.pid), *psutil.Process(encoders.pid).children(recursive=True)]
            assert len(family) > 1
        await until(lambda: not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in family), 10)

    run(work())


def test_without_encoders_there_is_nothing_to_wait_for() -> None:
    async def work() -> None:
        async with running({}) as encoders:
            assert encoders.pid is None
            assert await encoders.ping(0.1)

    run(work())


def test_encoders_that_cannot_be_loaded_are_named_and_not_tried_again() -> None:
    async def work() -> None:
        counts = Counts()
        encoders = EncoderProcess({"text": EncoderSpec("nonsense", {})}, settings=ServingSettings(), observer=counts)
        encoders.start()
        await asyncio.wait_for(encoders.refused.wait(), 60)
        assert "no encoder of kind 'nonsense'" in encoders.refusal
        assert not encoders.is_ready
        assert counts.n_restarts == 0
        with pytest.raises(Unavailable, match="not ready"):
            await encoders.encode("text", Content(text="boots"), deadline=soon())
        await encoders.stop()

    run(work())

"""What was saved is read, or nothing; as plain programs use it."""

import tempfile
import unittest
import warnings
from pathlib import Path

import numpy as np

import ckpt


class Stores(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.dir = Path(folder.name) / "images"

    def test_arrays_of_all_types_come_back(self) -> None:
        record = np.dtype([("name", "S5"), ("at", "<f8", (3,)), ("inner", [("x", ">i2")])])
        arrays = {
            "field": np.random.default_rng(1).random((30, 40, 5)),
            "fortran": np.asfortranarray(np.arange(12, dtype=np.int16).reshape(3, 4)),
            "every second": np.arange(20, dtype=np.uint8)[::2],
            "big-endian": np.arange(5, dtype=">f4"),
            "complex": np.array([1 + 2j, 3 - 4j]),
            "flags": np.array([True, False, True]),
            "times": np.array(["2026-01-02", "NaT"], dtype="datetime64[D]"),
            "words": np.array(["ä", "bcd"]),
            "records": np.array([(b"ab", (1, 2, 3), (7,))], dtype=record),
            "half": np.array([1.5], dtype=np.float16),
            "nothing": np.zeros((0, 3)),
            "single": np.float32(2.5),
            "number": 42,
            "bytes": b"\0\xff",
        }
        with ckpt.Store(self.dir, "all", level="auto") as store:
            self.assertIsNone(store.restore())
            self.assertIsNone(store.latest())
            store.save(7, arrays)
        with ckpt.Store(self.dir, "all") as store:
            saved = store.restore()
            assert saved is not None
            self.assertEqual(saved.version, 7)
            self.assertEqual(set(saved), set(arrays))
            for name, value in arrays.items():
                value = np.frombuffer(value, np.uint8) if isinstance(value, bytes) else np.asarray(value)
                self.assertEqual((saved[name].dtype, saved[name].shape), (value.dtype, value.shape), name)
                self.assertEqual(saved[name].tobytes(), value.tobytes(), name)
            version = store.latest()
            assert version is not None
            self.assertEqual(len(version), len(arrays))
            self.assertEqual(version.read_part("field", 10, 3).tolist(), arrays["field"].ravel()[10:13].tolist())

    def test_into_arrays_that_are_there(self) -> None:
        store = ckpt.Store(self.dir, "x")
        store.save(1, field=np.arange(6.0).reshape(2, 3))
        version = store.latest()
        assert version is not None
        out = np.zeros((2, 3))
        self.assertIs(version.read("field", out), out)
        self.assertEqual(out[1, 2], 5)
        for wrong in (np.zeros(6), np.zeros((2, 3), dtype=int), np.zeros((3, 2)).T):
            with self.assertRaises(ValueError):
                version.read("field", wrong)
        with self.assertRaises(KeyError):
            version["other"]
        with self.assertRaises(IndexError):
            version.read_part("field", 4, 3)

    def test_nothing_is_saved_of_what_fails(self) -> None:
        store = ckpt.Store(self.dir, "x")
        with self.assertRaises(ZeroDivisionError):
            with store.begin(1) as version:
                version["a"] = np.zeros(3)
                1 / 0
        self.assertIsNone(store.latest())
        with self.assertRaises(TypeError):
            with store.begin(1) as version:
                version["a"] = np.array([object()])
        store.save(2, a=1)
        with self.assertRaises(ckpt.Error) as caught:
            store.save(2, a=1)
        self.assertIn("cannot follow", str(caught.exception))
        self.assertEqual(caught.exception.status, 64)

    def test_staged_arrays_may_change(self) -> None:
        field = np.arange(3_000_000.0)
        with ckpt.Store(self.dir, "x", keep=3) as store:
            for number in range(1, 4):
                with store.begin(number, asynchronous=True) as version:
                    version["field"] = field
                field += 1
            store.wait()
            for number in range(1, 4):
                self.assertEqual(store.version(number)["field"][0], number - 1)

    def test_a_damaged_one_gives_way_to_the_one_before(self) -> None:
        store = ckpt.Store(self.dir, "x", increments=0)
        for number in (1, 2):
            store.save(number, field=np.random.default_rng(number).random(100_000))
        newest = sorted(self.dir.glob("*.ckpt"))[-1]
        data = bytearray(newest.read_bytes())
        data[len(data) // 2] ^= 1
        newest.write_bytes(data)
        store = ckpt.Store(self.dir, "x")
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            saved = store.restore()
        assert saved is not None
        self.assertEqual((saved.version, saved.passed_over), (1, 1))
        self.assertIn("1 damaged, version 1 is read", str(said[0].message))
        self.assertEqual(len(list(self.dir.glob("*.bad"))), 1)
        # And goes on from there.
        store.save(2, field=saved["field"])

    def test_one_that_cannot_be_opened_gives_way_too(self) -> None:
        store = ckpt.Store(self.dir, "x", increments=0)
        for number in (1, 2):
            store.save(number, a=number)
        newest = sorted(self.dir.glob("*.ckpt"))[-1]
        newest.write_bytes(newest.read_bytes()[:-1])
        with self.assertWarns(UserWarning):
            saved = ckpt.Store(self.dir, "x").restore()
        assert saved is not None
        self.assertEqual((saved.version, int(saved["a"]), saved.passed_over), (1, 1, 1))

    def test_ranks(self) -> None:
        stores = [ckpt.Store(self.dir, "x", rank=rank, ranks=3) for rank in range(3)]
        for rank, store in enumerate(stores):
            store.save(1, part=np.full(4, rank))
        stores[0].save(2, part=np.zeros(4))
        single = ckpt.Store(self.dir, "x")
        version = single.latest()
        assert version is not None
        self.assertEqual((version.number, version.ranks), (1, 3))
        parts = [version.rank(rank)["part"] for rank in range(3)]
        self.assertEqual(np.concatenate(parts).tolist(), [0] * 4 + [1] * 4 + [2] * 4)
        with self.assertRaises(ckpt.Error):
            single.restore()

    def test_a_version_of_nothing(self) -> None:
        with ckpt.Store(self.dir, "x") as store:
            store.save(1, {})
            saved = store.restore()
            assert saved is not None
            self.assertEqual((saved.version, len(saved)), (1, 0))

    def test_of_a_past_that_was_given_up(self) -> None:
        # The other rank has not come so far.
        ckpt.Store(self.dir, "x", rank=0, ranks=2).save(10, a=1)
        stores = [ckpt.Store(self.dir, "x", rank=rank, ranks=2) for rank in range(2)]
        self.assertEqual([store.restore() for store in stores], [None, None])
        for store in stores:
            store.save(10, a=2)
        latest = stores[0].latest()
        assert latest is not None
        self.assertEqual([int(latest.rank(rank)["a"]) for rank in range(2)], [2, 2])

    def test_damage_is_not_taken_for_nothing(self) -> None:
        ckpt.Store(self.dir, "x").save(1, a=np.zeros(1000))
        (image,) = self.dir.glob("*.ckpt")
        image.write_bytes(image.read_bytes()[:-5])
        store = ckpt.Store(self.dir, "x")
        with self.assertRaises(ckpt.Damaged):
            store.restore()
        self.assertEqual(len(list(self.dir.glob("*.bad"))), 1)

    def test_closed_is_closed(self) -> None:
        with ckpt.Store(self.dir, "x") as store:
            store.save(1, a=1)
            version = store.latest()
            assert version is not None
        for use in (lambda: version["a"], store.latest, lambda: store.save(2, a=1), store.wait):
            with self.assertRaises(ValueError):
                use()
        store.close()

    def test_threads_take_turns(self) -> None:
        import threading

        with ckpt.Store(self.dir, "x", keep=50) as store:
            numbers = iter(range(1, 41))
            turn = threading.Lock()

            def save() -> None:
                for _ in range(10):
                    with turn:
                        number = next(numbers)
                        store.save(number, {f"of {number}": np.full(1000, number)})
                    latest = store.latest()
                    assert latest is not None
                    self.assertEqual(len(latest), 1)

            threads = [threading.Thread(target=save) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            for number in range(1, 41):
                self.assertEqual(list(store.version(number)), [f"of {number}"])

    def test_policies(self) -> None:
        import os
        import signal

        policy = ckpt.Policy(every=1e6, signals=[signal.SIGUSR2])
        self.assertIsNone(policy.should_checkpoint())
        os.kill(os.getpid(), signal.SIGUSR2)
        reason = None
        while reason is None:
            reason = policy.should_checkpoint()
        self.assertIs(reason, ckpt.Reason.SIGNAL)
        with self.assertRaises(ValueError):
            ckpt.Policy(every=-1)


if __name__ == "__main__":
    unittest.main()

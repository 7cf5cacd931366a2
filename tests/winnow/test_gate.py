"""The FIFO gate: one at a time, in the order of asking, and never a deadlock with the database's own lock."""

from __future__ import annotations

import threading
import time

import pytest
from django.db import connection, transaction

from annotation.gate import TicketLock, write


def test_waiting_threads_enter_in_the_order_they_asked():
    lock, order, threads = TicketLock(), [], []

    def enter(number: int) -> None:
        lock.acquire()
        order.append(number)
        lock.release()

    lock.acquire()
    for number in range(12):
        threads.append(threading.Thread(target=enter, args=(number,)))
        threads[-1].start()
        while len(lock._waiting) <= number:
            time.sleep(0.001)
    lock.release()
    for thread in threads:
        thread.join(5)
    assert order == list(range(12))


def test_only_one_thread_is_inside():
    lock, inside, most = TicketLock(), [0], [0]

    def work() -> None:
        for _ in range(200):
            lock.acquire()
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            inside[0] -= 1
            lock.release()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert most == [1]
    assert lock._owner is None


def test_the_same_thread_may_enter_again():
    lock = TicketLock()
    lock.acquire()
    lock.acquire()
    lock.release()
    assert lock._owner == threading.get_ident()
    lock.release()
    assert lock._owner is None


@pytest.mark.django_db(transaction=True)
def test_inside_a_transaction_the_gate_is_not_asked():
    held, done = threading.Event(), threading.Event()

    def hold_the_gate() -> None:
        with write():
            held.set()
            done.wait(10)
        connection.close()

    thread = threading.Thread(target=hold_the_gate)
    thread.start()
    assert held.wait(5)
    with transaction.atomic(), write():  # would wait for ever if it asked
        pass
    done.set()
    thread.join(5)


@pytest.mark.django_db(transaction=True)
def test_the_gate_opens_again_after_an_error():
    with pytest.raises(ZeroDivisionError), write():
        raise ZeroDivisionError
    with write(), transaction.atomic():
        pass

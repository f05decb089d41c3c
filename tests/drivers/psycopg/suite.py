"""psycopg 3 through the pooler in transaction mode.

The server is named by libpq's own variables (PGHOST, PGPORT, PGUSER, PGPASSWORD, PGDATABASE).
Run by crates/howdah/tests/it/drivers.rs; by hand: python suite.py -v
"""

import datetime
import decimal
import os
import threading
import time
import unittest
import uuid

import psycopg
from psycopg import errors
from psycopg.types.json import Jsonb

CLIENTS = int(os.environ.get("DRIVERS_CLIENTS", "16"))
MEGABYTE = 1 << 20
TABLE = f"psycopg_{os.getpid()}"


def connect(**options):
    options.setdefault("connect_timeout", 20)
    return psycopg.connect("", **options)


def one(connection, sql, parameters=None, **options):
    """The only value of the only row."""
    return connection.execute(sql, parameters, **options).fetchone()[0]


class Suite(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        with connect(autocommit=True) as connection:
            connection.execute(f"create table {TABLE} (id int primary key, name text, data bytea)")

    @classmethod
    def tearDownClass(cls):
        with connect(autocommit=True) as connection:
            connection.execute(f"drop table {TABLE}")

    def setUp(self):
        self.connection = connect()
        self.addCleanup(self.connection.close)

    def test_simple_queries(self):
        connection = self.connection
        self.assertEqual(one(connection, "select 1"), 1)
        # Several statements in one Query give several results.
        cursor = connection.execute("select 1; select 'two'; select 3 where false")
        self.assertEqual(cursor.fetchall(), [(1,)])
        self.assertTrue(cursor.nextset())
        self.assertEqual(cursor.fetchall(), [("two",)])
        self.assertTrue(cursor.nextset())
        self.assertEqual(cursor.fetchall(), [])
        self.assertEqual(connection.execute("").statusmessage, None)

    def test_parameters_of_many_types(self):
        values = [
            1, 1 << 40, "häß", True, 1.5, decimal.Decimal("12345678901234567890.123"),
            datetime.date(2024, 2, 29), uuid.UUID(int=7), b"\0\xff", [1, 2, 3],
            datetime.datetime(2024, 2, 29, 12, tzinfo=datetime.timezone.utc),
        ]
        for value in values:
            for binary in (False, True):
                with self.subTest(value=value, binary=binary):
                    with self.connection.cursor(binary=binary) as cursor:
                        self.assertEqual(cursor.execute("select %s", [value]).fetchone()[0], value)
        self.assertIsNone(one(self.connection, "select %s::text", [None]))
        self.assertEqual(one(self.connection, "select %s", [Jsonb({"a": [1]})]), {"a": [1]})

    def test_binary_parameters_and_results(self):
        with self.connection.cursor(binary=True) as cursor:
            cursor.execute("select %b::int8, %b::bytea, %b::float8", [7, b"\0\1\2", 2.5])
            self.assertEqual(cursor.fetchone(), (7, b"\0\1\2", 2.5))

    def test_a_prepared_statement_lives_across_transactions(self):
        connection = self.connection
        for number in range(20):
            with connection.transaction():
                self.assertEqual(one(connection, "select %s + 1", [number], prepare=True), number + 1)
        connection.autocommit = True
        for number in range(20):
            self.assertEqual(one(connection, "select %s + 2", [number], prepare=True), number + 2)

    def test_an_unnamed_statement_is_executed_again_and_again(self):
        self.connection.prepare_threshold = None
        self.connection.autocommit = True
        for number in range(20):
            self.assertEqual(one(self.connection, "select %s * 2", [number]), number * 2)

    def test_many_clients_use_one_name_for_different_statements(self):
        """psycopg calls its first prepared statement _pg3_0 in every connection."""
        failures = []
        start = threading.Barrier(CLIENTS)

        def client(number):
            try:
                with connect(autocommit=True, prepare_threshold=0) as connection:
                    start.wait(60)
                    for turn in range(25):
                        value = one(connection, f"select %s + {number}", [turn])
                        if value != turn + number:
                            failures.append((number, turn, value))
                        if turn % 5 == number % 5:
                            with connection.transaction():
                                one(connection, f"select %s || 'c{number}'", [str(turn)])
                                name = one(connection, "select current_setting('application_name')")
                                if turn and name != "":
                                    failures.append((number, turn, name))
            except Exception as error:
                failures.append((number, repr(error)))

        threads = [threading.Thread(target=client, args=[number]) for number in range(CLIENTS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(failures, [])

    def test_a_statement_is_prepared_anew_after_deallocate_all(self):
        connection = self.connection
        connection.autocommit = True
        for _ in range(2):
            self.assertEqual(one(connection, "select %s::int", [5], prepare=True), 5)
        connection.execute("deallocate all")
        connection._prepared.clear()
        for _ in range(2):
            self.assertEqual(one(connection, "select %s::int", [6], prepare=True), 6)

    def test_pipelines(self):
        connection = self.connection
        connection.autocommit = True
        with connection.pipeline():
            cursors = [connection.execute("select %s::int", [number]) for number in range(200)]
            values = [cursor.fetchone()[0] for cursor in cursors]
        self.assertEqual(values, list(range(200)))
        with connection.pipeline() as pipeline:
            cursors = []
            for number in range(10):
                cursors.append(connection.execute("select %s::int", [number], prepare=True))
                pipeline.sync()
            self.assertEqual([cursor.fetchone()[0] for cursor in cursors], list(range(10)))

    def test_an_error_aborts_a_pipeline_up_to_its_sync(self):
        connection = self.connection
        connection.autocommit = True
        with self.assertRaises(errors.DivisionByZero):
            with connection.pipeline():
                connection.execute("select 1")
                connection.execute("select 1 / 0")
                connection.execute("select 2")
        self.assertEqual(one(connection, "select 3"), 3)
        with connection.pipeline() as pipeline:
            broken = connection.execute("select 1 / 0")
            with self.assertRaises(errors.DivisionByZero):
                pipeline.sync()
                broken.fetchone()
            after = connection.execute("select 4")
            pipeline.sync()
            self.assertEqual(after.fetchone()[0], 4)

    def test_copy_in_and_out(self):
        connection = self.connection
        rows = [(number, f"name {number}", bytes([number % 256])) for number in range(2000)]
        with connection.transaction(force_rollback=True):
            with connection.cursor() as cursor:
                with cursor.copy(f"copy {TABLE} from stdin") as copy:
                    for row in rows:
                        copy.write_row(row)
                self.assertEqual(cursor.rowcount, len(rows))
                with cursor.copy(f"copy (select * from {TABLE} order by id) to stdout (format binary)") as copy:
                    copy.set_types(["int4", "text", "bytea"])
                    self.assertEqual(list(copy.rows()), rows)
        self.assertEqual(one(connection, f"select count(*) from {TABLE}"), 0)

    def test_a_copy_may_fail_on_either_side(self):
        connection = self.connection
        connection.autocommit = True
        with self.assertRaises(ZeroDivisionError):
            with connection.cursor().copy(f"copy {TABLE} from stdin") as copy:
                copy.write_row((1, "x", None))
                raise ZeroDivisionError
        with self.assertRaises(errors.BadCopyFileFormat):
            with connection.cursor().copy(f"copy {TABLE} from stdin") as copy:
                copy.write("1\n")
        with self.assertRaises(errors.UndefinedTable):
            with connection.cursor().copy("copy nowhere from stdin") as copy:
                copy.write_row((1,))
        self.assertEqual(one(connection, f"select count(*) from {TABLE}"), 0)

    def test_cancel_stops_the_right_query(self):
        bystander = connect()
        self.addCleanup(bystander.close)
        outcome = []

        def sleep():
            try:
                self.connection.execute("select pg_sleep(60)")
                outcome.append("slept")
            except errors.QueryCanceled:
                outcome.append("cancelled")

        one(bystander, "select 1")
        thread = threading.Thread(target=sleep)
        thread.start()
        deadline = time.monotonic() + 30
        while thread.is_alive() and time.monotonic() < deadline:
            self.connection.cancel_safe()
            thread.join(0.2)
        thread.join()
        self.assertEqual(outcome, ["cancelled"])
        self.connection.rollback()
        self.assertEqual(one(self.connection, "select 1"), 1)
        self.assertEqual(one(bystander, "select 2"), 2)

    def test_a_cancel_that_comes_too_late_hurts_nobody(self):
        self.connection.autocommit = True
        for number in range(10):
            one(self.connection, "select 1")
            self.connection.cancel_safe()
            self.assertEqual(one(self.connection, "select %s::int", [number]), number)

    def test_errors_in_transactions(self):
        connection = self.connection
        with self.assertRaises(errors.UndefinedColumn) as caught:
            connection.execute("select missing")
        self.assertEqual(caught.exception.diag.severity_nonlocalized, "ERROR")
        self.assertEqual(caught.exception.diag.statement_position, "8")
        self.assertEqual(connection.info.transaction_status, psycopg.pq.TransactionStatus.INERROR)
        with self.assertRaises(errors.InFailedSqlTransaction):
            connection.execute("select 1")
        connection.rollback()
        self.assertEqual(connection.info.transaction_status, psycopg.pq.TransactionStatus.IDLE)
        with self.assertRaises(errors.UniqueViolation) as caught:
            with connection.transaction():
                for _ in range(2):
                    connection.execute(f"insert into {TABLE} values (1, 'x')")
        self.assertEqual(caught.exception.diag.table_name, TABLE)
        self.assertEqual(one(connection, f"select count(*) from {TABLE}"), 0)

    def test_savepoints(self):
        connection = self.connection
        with connection.transaction(force_rollback=True):
            connection.execute(f"insert into {TABLE} values (1, 'outer')")
            with self.assertRaises(errors.DivisionByZero):
                with connection.transaction():
                    connection.execute(f"insert into {TABLE} values (2, 'inner')")
                    connection.execute("select 1 / 0")
            with connection.transaction():
                connection.execute(f"insert into {TABLE} values (3, 'second')")
            ids = connection.execute(f"select id from {TABLE} order by id").fetchall()
            self.assertEqual(ids, [(1,), (3,)])

    def test_notices(self):
        notices = []
        # A diagnostic is only good while its handler runs.
        self.connection.add_notice_handler(
            lambda notice: notices.append((notice.severity_nonlocalized, notice.message_primary))
        )
        self.connection.execute("do $$ begin raise notice 'one'; raise warning 'two'; end $$")
        self.assertEqual(notices, [("NOTICE", "one"), ("WARNING", "two")])

    def test_large_results(self):
        cursor = self.connection.execute("select n, repeat('x', 100) from generate_series(1, 100000) n")
        rows = cursor.fetchall()
        self.assertEqual((len(rows), rows[-1]), (100000, (100000, "x" * 100)))
        self.assertEqual(len(one(self.connection, "select repeat('y', 20 * 1024 * 1024)")), 20 * MEGABYTE)

    def test_a_server_side_cursor(self):
        with self.connection.transaction(), self.connection.cursor(name="c") as cursor:
            cursor.execute("select * from generate_series(1, 1000)")
            self.assertEqual(cursor.fetchmany(3), [(1,), (2,), (3,)])
            cursor.scroll(500)
            self.assertEqual(cursor.fetchone(), (504,))

    def test_rows_one_by_one(self):
        with self.connection.cursor() as cursor:
            rows = cursor.stream("select * from generate_series(1, 5000)", size=100)
            self.assertEqual(sum(row[0] for row in rows), 5000 * 5001 // 2)

    def test_big_parameters(self):
        connection = self.connection
        text, data = "ä" * MEGABYTE, os.urandom(MEGABYTE)
        for prepare in (False, True, True):
            returned = connection.execute("select %s, %b::bytea", [text, data], prepare=prepare).fetchone()
            self.assertEqual(returned, (text, data))
        connection.execute(f"select length('{text}')")
        with connection.transaction(force_rollback=True):
            connection.execute(f"insert into {TABLE} values (1, %s, %b)", [text, data])
            self.assertEqual(one(connection, f"select data from {TABLE}"), data)

    def test_reported_settings_follow_their_client(self):
        """client_encoding, TimeZone, DateStyle and application_name are each client's own."""
        zones = ["Asia/Kolkata", "America/New_York", "Europe/Berlin", "Pacific/Auckland"]
        clients = [connect(autocommit=True, application_name=f"app {zone}") for zone in zones]
        for client, zone in zip(clients, zones):
            self.addCleanup(client.close)
            client.execute(f"set timezone to '{zone}'")
            self.assertEqual(client.info.parameter_status("TimeZone"), zone)
        for _ in range(5):
            for client, zone in zip(clients, zones):
                self.assertEqual(one(client, "show timezone"), zone)
                self.assertEqual(one(client, "show application_name"), f"app {zone}")
                self.assertEqual(client.info.parameter_status("TimeZone"), zone)
        latin, utf = clients[:2]
        latin.execute("set client_encoding to latin1")
        self.assertEqual(latin.info.encoding, "iso8859-1")
        for _ in range(3):
            self.assertEqual(one(utf, "select 'ä'"), "ä")
            self.assertEqual(one(latin, "select 'ä'"), "ä")
            self.assertEqual(one(latin, "select length(%s)", ["ß"]), 1)
        self.assertIsNone(utf.info.parameter_status("nonsense"))
        self.assertTrue(utf.info.parameter_status("server_version"))

    def test_settings_at_start_up(self):
        options = {"application_name": "started", "client_encoding": "latin1", "options": "-c timezone=Asia/Tokyo"}
        try:
            connection = connect(autocommit=True, **options)
        except psycopg.OperationalError as error:
            # PgBouncer refuses options unless told to ignore them; Howdah applies them.
            self.fail(f"start-up options were refused: {error}")
        self.addCleanup(connection.close)
        for _ in range(3):
            self.assertEqual(one(connection, "show application_name"), "started")
            self.assertEqual(one(connection, "show client_encoding"), "LATIN1")
            self.assertEqual(one(connection, "show timezone"), "Asia/Tokyo")
        self.assertEqual(one(self.connection, "select 'ä'"), "ä")

    def test_set_local_ends_with_its_transaction(self):
        connection = self.connection
        with connection.transaction():
            connection.execute("set local timezone to 'Asia/Tokyo'")
            self.assertEqual(one(connection, "show timezone"), "Asia/Tokyo")
        self.assertNotEqual(one(connection, "show timezone"), "Asia/Tokyo")

    def test_transaction_modes(self):
        connection = self.connection
        connection.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
        connection.read_only = True
        with self.assertRaises(errors.ReadOnlySqlTransaction):
            connection.execute(f"insert into {TABLE} values (1)")
        connection.rollback()
        other = connect()
        self.addCleanup(other.close)
        self.assertEqual(one(other, "show transaction_isolation"), "read committed")

    @unittest.skipIf(psycopg.pq.version() < 180000, "libpq speaks only protocol 3.0")
    def test_newer_protocols_are_spoken_or_negotiated(self):
        for version in ("3.0", "3.2", "latest"):
            with connect(max_protocol_version=version) as connection:
                self.assertEqual(one(connection, "select 1"), 1)
                self.assertIn(connection.pgconn.parameter_status(b"is_superuser"), (b"on", b"off"))

    def test_connections_come_and_go(self):
        for number in range(50):
            with connect() as connection:
                self.assertEqual(one(connection, "select %s::int", [number]), number)

    def test_a_transaction_left_open_is_rolled_back(self):
        connection = connect()
        connection.execute(f"insert into {TABLE} values (7, 'lost')")
        connection.pgconn.finish()
        deadline = time.monotonic() + 10
        while one(self.connection, "select count(*) from pg_locks where relation = %s::regclass", [TABLE]):
            self.connection.commit()
            self.assertLess(time.monotonic(), deadline, "the transaction is still open")
            time.sleep(0.05)
        self.connection.commit()
        self.assertEqual(one(self.connection, f"select count(*) from {TABLE}"), 0)


if __name__ == "__main__":
    unittest.main()

-- Prepared transactions that stay until the server stops, and one that does not.
CREATE TABLE prepared_into (a int);
BEGIN;
CREATE TABLE prepared_one (a int);
INSERT INTO prepared_one SELECT generate_series(1, 100);
SAVEPOINT one;
INSERT INTO prepared_one VALUES (0);
PREPARE TRANSACTION 'stays';
BEGIN;
INSERT INTO prepared_into VALUES (1);
PREPARE TRANSACTION 'goes';
ROLLBACK PREPARED 'goes';
BEGIN;
INSERT INTO prepared_into VALUES (2);
PREPARE TRANSACTION 'stays, too';

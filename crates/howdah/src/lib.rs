//! Command line, configuration, API and the wiring of pooler, page server and the supervised Postgres.

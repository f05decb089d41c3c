//! Bad input: whatever a client, a server or a file does, the pooler answers with a Postgres error of
//! the right SQLSTATE or a clean close, goes on serving others, and leaks no server connection.

mod clients;
mod configuration;
mod limits;
mod mutations;
mod passwords;
mod postgres;
mod servers;

//! As much SQL as a pooler needs: words of a query, past comments and quotes. No grammar.

pub mod command;
pub mod lexer;

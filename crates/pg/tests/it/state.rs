//! What is kept beside pages, judged by the files of a server that was stopped.

mod postgres;

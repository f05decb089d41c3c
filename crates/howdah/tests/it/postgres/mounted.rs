//! Computes on mounts, each with a stock Postgres. Without the right to mount there is nothing to test here.

mod boot;
mod facts;
mod faults;
mod majors;
mod moments;
mod work;

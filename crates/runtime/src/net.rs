//! Sockets as services see them: addresses, listeners and streams over whichever driver the core has.

pub use address::{Address, BadAddress};
pub use listener::{ListenOptions, Listener};
pub use stream::{Credentials, Detached, Keepalive, Stream};

mod address;
mod listener;
mod stream;

/// Raises the soft limit of open descriptors to the hard one and returns it. A process that may raise
/// the hard limit gets at least `wanted`.
pub fn raise_fd_limit(wanted: u64) -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let (soft, hard) = (limit.current.unwrap_or(u64::MAX), limit.maximum.unwrap_or(u64::MAX));
    for target in [hard.max(wanted), hard] {
        let raised = Rlimit { current: Some(target), maximum: Some(target) };
        if soft < target && setrlimit(Resource::Nofile, raised).is_ok() {
            return target;
        }
    }
    soft
}

#[cfg(test)]
mod tests;

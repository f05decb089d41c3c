//! Host names of servers, looked up by the system's resolver and remembered for a while.
//!
//! Of several addresses each new connection begins with the next; those that do not answer are passed over.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::time::Duration;

use runtime::clock::{self, Instant};
use runtime::net::Address;

use crate::console::snapshot::HostName;
use crate::limits::{HOST_ADDRESSES_MAX, HOST_NAMES_MAX};
use crate::settings::Settings;

/// What one core knows.
#[derive(Default)]
pub(crate) struct Names {
    known: RefCell<BTreeMap<String, Entry>>,
    turn: Cell<usize>,
    /// Look-ups under way.
    pub(crate) lookups: Cell<u64>,
}

struct Entry {
    until: Instant,
    found: Found,
}

/// The addresses of a name, or why there are none.
type Found = Result<Vec<IpAddr>, String>;

impl Names {
    /// Where to connect to, in this order. Numeric addresses need no look-up.
    pub(crate) async fn addresses(
        &self,
        host: &str,
        port: u16,
        settings: &Settings,
    ) -> io::Result<Vec<Address>> {
        let found = match host.parse::<IpAddr>() {
            Ok(address) => Ok(vec![address]),
            Err(_a_name) => match self.known(host, clock::now()) {
                Some(found) => found,
                None => {
                    let under_way = UnderWay::begin(&self.lookups);
                    let found = look_up(host).await?;
                    drop(under_way);
                    self.learn(host, clock::now(), &found, settings);
                    found
                }
            },
        };
        let mut found = found.map_err(io::Error::other)?;
        let turn = self.turn.replace(self.turn.get().wrapping_add(1));
        let first = turn % found.len().max(1);
        found.rotate_left(first);
        Ok(found.into_iter().map(|ip| Address::Tcp(SocketAddr::new(ip, port))).collect())
    }

    /// What SHOW DNS_HOSTS prints.
    pub(crate) fn lines(&self, now: Instant) -> Vec<HostName> {
        let known = self.known.borrow();
        let fresh = known.iter().filter(|(_, entry)| now < entry.until);
        let addresses = |found: &Found| {
            found.iter().flatten().map(|address| address.to_string()).collect::<Vec<String>>()
        };
        fresh
            .map(|(name, entry)| HostName {
                name: name.clone(),
                ttl_seconds: (entry.until - now).as_secs(),
                addresses: addresses(&entry.found),
            })
            .collect()
    }

    fn known(&self, host: &str, now: Instant) -> Option<Found> {
        let known = self.known.borrow();
        known.get(host).filter(|entry| now < entry.until).map(|entry| entry.found.clone())
    }

    fn learn(&self, host: &str, now: Instant, found: &Found, settings: &Settings) {
        let time: Duration =
            if found.is_ok() { settings.dns_max_ttl } else { settings.dns_nxdomain_ttl };
        let mut known = self.known.borrow_mut();
        if known.len() >= HOST_NAMES_MAX && !known.contains_key(host) {
            known.pop_first();
        }
        known.insert(host.to_owned(), Entry { until: now + time, found: found.clone() });
    }
}

/// A look-up, counted however it ends.
struct UnderWay<'a>(&'a Cell<u64>);

impl<'a> UnderWay<'a> {
    fn begin(count: &'a Cell<u64>) -> UnderWay<'a> {
        count.set(count.get() + 1);
        UnderWay(count)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// By the system's resolver, on a thread of its own. The error is the thread's end.
async fn look_up(host: &str) -> io::Result<Found> {
    let name = host.to_owned();
    let found = runtime::bridge::blocking(move || {
        let mut addresses: Vec<IpAddr> = Vec::new();
        for address in (name.as_str(), 0).to_socket_addrs()? {
            if !addresses.contains(&address.ip()) && addresses.len() < HOST_ADDRESSES_MAX {
                addresses.push(address.ip());
            }
        }
        Ok::<_, io::Error>(addresses)
    });
    let found = found.await.map_err(|_gone| io::Error::other("shutting down"))?;
    Ok(match found {
        Ok(addresses) if !addresses.is_empty() => Ok(addresses),
        Ok(_none) => Err(format!("could not look up \"{host}\"")),
        Err(error) => Err(format!("could not look up \"{host}\": {error}")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn settings() -> Settings {
        Settings { dns_max_ttl: SECOND * 10, dns_nxdomain_ttl: SECOND * 2, ..Settings::default() }
    }

    fn found(addresses: &[&str]) -> Found {
        Ok(addresses.iter().map(|text| text.parse().expect("an address")).collect())
    }

    #[test]
    fn names_are_remembered_for_as_long_as_the_settings_say() {
        let (names, settings) = (Names::default(), settings());
        let start = Instant(0);
        names.learn("here", start, &found(&["10.0.0.1"]), &settings);
        names.learn("nowhere", start, &Err("no such host".to_owned()), &settings);
        let soon = start + SECOND;
        assert_eq!(names.known("here", soon), Some(found(&["10.0.0.1"])));
        assert_eq!(names.known("nowhere", soon), Some(Err("no such host".to_owned())));
        let later = start + SECOND * 3;
        assert!(names.known("here", later).is_some() && names.known("nowhere", later).is_none());
        assert_eq!(names.known("here", start + SECOND * 10), None);
        names.learn("shown", start, &found(&["10.0.0.1", "::1"]), &settings);
        names.learn("failed", start, &Err("no such host".to_owned()), &settings);
        let shown: Vec<_> = names
            .lines(soon)
            .into_iter()
            .map(|line| (line.name, line.addresses.join(",")))
            .collect();
        let expected =
            [("failed", ""), ("here", "10.0.0.1"), ("nowhere", ""), ("shown", "10.0.0.1,::1")];
        assert_eq!(shown, expected.map(|(name, text)| (name.to_owned(), text.to_owned())));
    }

    #[test]
    fn no_more_names_are_remembered_than_there_is_room_for() {
        let (names, settings) = (Names::default(), settings());
        for number in 0..=HOST_NAMES_MAX {
            names.learn(&format!("{number:05}"), Instant(0), &found(&["10.0.0.1"]), &settings);
        }
        assert_eq!(names.known.borrow().len(), HOST_NAMES_MAX);
    }

    #[test]
    fn each_connection_begins_with_the_next_address() {
        let done = runtime::executor::block_on(&runtime::io::Options::default(), async {
            let (names, settings) = (Names::default(), settings());
            let long = Settings { dns_max_ttl: SECOND * 3600, ..settings };
            let two = found(&["10.0.0.1", "10.0.0.2"]);
            names.learn("both", clock::now(), &two, &long);
            let mut first = Vec::new();
            for _connection in 0..4 {
                let addresses = names.addresses("both", 5432, &long).await.expect("it is known");
                assert_eq!(addresses.len(), 2, "the other one is there to fall back on");
                first.push(addresses[0].to_string());
            }
            assert_eq!(first[0], first[2]);
            assert_eq!(first[1], first[3]);
            assert_ne!(first[0], first[1]);
            let numeric = names.addresses("127.0.0.1", 1, &long).await.expect("no look-up");
            assert_eq!(numeric[0].to_string(), "127.0.0.1:1");
            assert!(names.addresses("no such name", 1, &long).await.is_err());
            assert!(names.known("no such name", clock::now()).is_some_and(|found| found.is_err()));
        });
        done.expect("a core");
    }
}

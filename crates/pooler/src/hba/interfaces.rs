//! This machine's own addresses and networks, for `samehost` and `samenet`.
//!
//! Read from Linux' `/proc/net` as text, so that no system call has to be wrapped for it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::address::Network;

/// What the network interfaces have.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Interfaces {
    hosts: Vec<Network>,
    networks: Vec<Network>,
}

impl Interfaces {
    /// From the texts of `/proc/net/fib_trie`, `/proc/net/route` and `/proc/net/if_inet6`; any may
    /// be empty. Loopback is always there.
    #[must_use]
    pub fn from_proc(fib_trie: &str, route: &str, if_inet6: &str) -> Self {
        let loopback4 = Network::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8);
        let loopback6 = Network::new(IpAddr::V6(Ipv6Addr::LOCALHOST), 128);
        let mut found =
            Self { hosts: vec![loopback4, loopback6], networks: vec![loopback4, loopback6] };
        found.hosts.extend(local_ipv4(fib_trie).map(|address| Network::new(address.into(), 32)));
        found.networks.extend(route.lines().filter_map(ipv4_network));
        let ipv6: Vec<Network> = if_inet6.lines().filter_map(ipv6_network).collect();
        found.hosts.extend(ipv6.iter().map(Network::host));
        found.networks.extend(ipv6);
        found
    }

    /// The machine's own addresses.
    pub fn hosts(&self) -> impl Iterator<Item = Network> + '_ {
        self.hosts.iter().copied()
    }

    /// The networks that it is directly connected to.
    pub fn networks(&self) -> impl Iterator<Item = Network> + '_ {
        self.networks.iter().copied()
    }
}

/// An address line (`|-- 10.0.0.7`) that is followed by `/32 host LOCAL`.
fn local_ipv4(fib_trie: &str) -> impl Iterator<Item = Ipv4Addr> + '_ {
    let mut last = None;
    fib_trie.lines().filter_map(move |line| {
        if let Some((_tree, address)) = line.split_once("|-- ") {
            last = address.trim().parse().ok();
            return None;
        }
        line.trim().starts_with("/32 host LOCAL").then_some(last).flatten()
    })
}

/// `eth0 0000000A 00000000 0001 0 0 0 00FFFFFF …`: destination, gateway and mask in memory order.
fn ipv4_network(line: &str) -> Option<Network> {
    let mut fields = line.split_whitespace();
    let mut hex = |skip: usize| {
        let field = fields.nth(skip)?;
        u32::from_str_radix(field, 16).ok().map(u32::from_be)
    };
    let destination = hex(1)?;
    let gateway = hex(0)?;
    let mask = hex(4)?;
    let prefix = mask.leading_ones();
    (gateway == 0 && prefix > 0)
        .then(|| Network::new(IpAddr::V4(Ipv4Addr::from_bits(destination)), prefix))
}

/// `fe80…16 bytes… 02 40 20 80 eth0`: address, interface number, prefix length in hexadecimal.
fn ipv6_network(line: &str) -> Option<Network> {
    let mut fields = line.split_whitespace();
    let address = u128::from_str_radix(fields.next()?, 16).ok()?;
    let prefix = u32::from_str_radix(fields.nth(1)?, 16).ok()?;
    Some(Network::new(IpAddr::V6(Ipv6Addr::from_bits(address)), prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIB_TRIE: &str = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 0.0.0.0\n        /0 universe UNICAST\n\
        Local:\n     |-- 10.1.2.7\n        /32 host LOCAL\n     |-- 10.1.2.255\n        /32 link BROADCAST\n";
    const ROUTE: &str = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\n\
        eth0\t00000000\t0102010A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
        eth0\t0002010A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";
    const IF_INET6: &str = "fd000000000000000000000000000005 02 40 20 80     eth0\n";

    fn check(list: &[Network], address: &str, expected: bool) {
        let address = address.parse().expect("an address");
        assert_eq!(list.iter().any(|network| network.contains(address)), expected, "{address}");
    }

    #[test]
    fn own_addresses_and_neighbours_are_told_apart() {
        let found = Interfaces::from_proc(FIB_TRIE, ROUTE, IF_INET6);
        for (address, own, near) in [
            ("127.0.0.1", true, true),
            ("::1", true, true),
            ("10.1.2.7", true, true),
            ("10.1.2.8", false, true),
            ("10.1.3.8", false, false),
            ("fd00::5", true, true),
            ("fd00::6", false, true),
            ("fd01::6", false, false),
        ] {
            check(&found.hosts, address, own);
            check(&found.networks, address, near);
        }
    }

    #[test]
    fn nonsense_leaves_loopback() {
        let found = Interfaces::from_proc("x\n|-- y\n/32 host LOCAL", "a b c\n1", "zz");
        assert_eq!((found.hosts.len(), found.networks.len()), (2, 2));
    }
}

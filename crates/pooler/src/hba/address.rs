//! Address fields: CIDR, address and mask, `all`, `samehost`, `samenet`.

use std::net::IpAddr;

use super::Interfaces;

/// The addresses that a line covers.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Addresses {
    /// `all`, and lines without an address field.
    All,
    Networks(Vec<Network>),
}

/// An address range.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Network {
    address: IpAddr,
    prefix: u32,
}

impl Addresses {
    pub(super) fn contain(&self, address: IpAddr) -> bool {
        match self {
            Self::All => true,
            Self::Networks(networks) => networks.iter().any(|network| network.contains(address)),
        }
    }

    /// Reads an address field; the mask field is asked for only if the address has no prefix.
    ///
    /// # Errors
    /// What is wrong, as a sentence.
    pub(super) fn parse<'a>(
        text: &str,
        mask: impl FnOnce() -> Option<&'a str>,
        interfaces: &Interfaces,
    ) -> Result<Self, String> {
        match text {
            "all" => return Ok(Self::All),
            "samehost" => return Ok(Self::Networks(interfaces.hosts().collect())),
            "samenet" => return Ok(Self::Networks(interfaces.networks().collect())),
            _ => {}
        }
        let (host, prefix) = match text.split_once('/') {
            Some((host, prefix)) => (host, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = host.parse().map_err(|_error| {
            format!("\"{host}\" is not an IP address (host names are not supported)")
        })?;
        let prefix = match prefix {
            Some(prefix) => prefix
                .parse()
                .ok()
                .filter(|&prefix| prefix <= bits(address))
                .ok_or_else(|| format!("\"{text}\" has an invalid mask length"))?,
            None => {
                let mask = mask().ok_or_else(|| format!("\"{text}\" has no mask"))?;
                prefix_of_mask(address, mask)?
            }
        };
        Ok(Self::Networks(vec![Network { address, prefix }]))
    }
}

impl Network {
    /// A network from an address in it; bits beyond the prefix do not matter.
    #[must_use]
    pub fn new(address: IpAddr, prefix: u32) -> Self {
        Self { address, prefix: prefix.min(bits(address)) }
    }

    /// A client that came over a dual-stack socket (`::ffff:10.0.0.1`) counts as IPv4.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(network), IpAddr::V4(client)) => {
                let mask = u32::MAX.checked_shl(32 - self.prefix).unwrap_or(0);
                (network.to_bits() ^ client.to_bits()) & mask == 0
            }
            (IpAddr::V6(network), IpAddr::V6(client)) => {
                let mask = u128::MAX.checked_shl(128 - self.prefix).unwrap_or(0);
                (network.to_bits() ^ client.to_bits()) & mask == 0
            }
            _ => false,
        }
    }

    /// The address with all its bits.
    #[must_use]
    pub fn host(&self) -> Self {
        Self { address: self.address, prefix: bits(self.address) }
    }
}

fn bits(address: IpAddr) -> u32 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

/// Only masks that are a row of ones: Postgres takes others, nobody means them.
fn prefix_of_mask(address: IpAddr, text: &str) -> Result<u32, String> {
    let invalid = || format!("invalid IP mask \"{text}\"");
    let mask: IpAddr = text.parse().map_err(|_error| invalid())?;
    let (ones, zeros) = match (address, mask) {
        (IpAddr::V4(_), IpAddr::V4(mask)) => {
            (mask.to_bits().leading_ones(), mask.to_bits().trailing_zeros())
        }
        (IpAddr::V6(_), IpAddr::V6(mask)) => {
            (mask.to_bits().leading_ones(), mask.to_bits().trailing_zeros())
        }
        _ => return Err("IP address and mask do not match".to_owned()),
    };
    if ones + zeros == bits(address) { Ok(ones) } else { Err(invalid()) }
}

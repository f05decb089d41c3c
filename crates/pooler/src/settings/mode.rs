//! The choices a setting can have: pool mode, authentication type, TLS mode and protocols, host order.
//!
//! Names are PgBouncer's, which takes the TLS names from libpq.

use std::fmt;
use std::str::FromStr;

use serde::de::Error;
use serde::{Deserialize, Deserializer};

/// Declares an enum whose values have one name each, for TOML, ini files and SHOW alike.
macro_rules! choice {
    ($(#[$meta:meta])* $name:ident, $what:literal { $($(#[$variant_meta:meta])* $variant:ident = $text:literal $(| $alias:literal)*),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Eq, PartialEq)]
        pub enum $name {
            $($(#[$variant_meta])* $variant),+
        }

        impl $name {
            /// The name used in files and in SHOW.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }

        impl FromStr for $name {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                match text.to_ascii_lowercase().as_str() {
                    $($text $(| $alias)* => Ok(Self::$variant),)+
                    _ => Err(format!(
                        concat!("\"{}\" is not ", $what, ", use one of {}"),
                        text,
                        [$($text),+].join(", "),
                    )),
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str(self.name())
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
                String::deserialize(input)?.parse().map_err(D::Error::custom)
            }
        }
    };
}

choice! {
    /// When a server connection goes back to its pool.
    PoolMode, "a pool mode" {
        /// When the client disconnects.
        Session = "session",
        /// When the transaction ends.
        Transaction = "transaction",
        /// When the statement ends; transactions of several statements are refused.
        Statement = "statement",
    }
}

choice! {
    /// How clients prove who they are.
    AuthType, "an authentication type" {
        /// No proof; the user must be known.
        Trust = "trust",
        /// No proof and the user name is ignored: every database must name its server user.
        Any = "any",
        /// The password in clear text over the wire.
        Plain = "plain" | "password",
        /// MD5 challenge; a user whose stored secret is SCRAM gets SCRAM instead.
        Md5 = "md5",
        /// SCRAM-SHA-256.
        ScramSha256 = "scram-sha-256",
        /// TLS client certificate whose common name is the user.
        Cert = "cert",
        /// The HBA file decides.
        Hba = "hba",
    }
}

choice! {
    /// libpq's sslmode, for either side.
    SslMode, "an sslmode" {
        Disable = "disable",
        /// TLS if the other side asks for it (client side: same as prefer).
        Allow = "allow",
        Prefer = "prefer",
        Require = "require",
        /// The other side's certificate must come from the CA file.
        VerifyCa = "verify-ca",
        /// Also, a server's certificate must name its host.
        VerifyFull = "verify-full",
    }
}

impl SslMode {
    /// Whether a connection without TLS is refused.
    #[must_use]
    pub fn is_required(self) -> bool {
        matches!(self, Self::Require | Self::VerifyCa | Self::VerifyFull)
    }

    /// Whether the other side's certificate is checked.
    #[must_use]
    pub fn verifies(self) -> bool {
        matches!(self, Self::VerifyCa | Self::VerifyFull)
    }
}

choice! {
    /// TLS versions that are offered. Older ones than 1.2 do not exist here.
    TlsProtocols, "a set of TLS protocols" {
        /// TLS 1.2 and 1.3.
        Secure = "secure",
        Tls12 = "tlsv1.2",
        Tls13 = "tlsv1.3",
    }
}

choice! {
    /// Which of several hosts gets the next server connection.
    LoadBalanceHosts, "a host order" {
        RoundRobin = "round-robin",
        /// Always the first that answers.
        Disable = "disable",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for mode in [PoolMode::Session, PoolMode::Transaction, PoolMode::Statement] {
            assert_eq!(mode.name().parse(), Ok(mode));
        }
        assert_eq!("SCRAM-SHA-256".parse(), Ok(AuthType::ScramSha256));
        assert_eq!("verify-full".parse(), Ok(SslMode::VerifyFull));
    }

    #[test]
    fn a_wrong_name_lists_the_right_ones() {
        assert_eq!(
            "transactional".parse::<PoolMode>(),
            Err("\"transactional\" is not a pool mode, use one of session, transaction, statement"
                .to_owned())
        );
    }
}

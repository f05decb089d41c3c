//! Every bound of the formats, with its name and its reason.

// ---- wire ----

/// Longest start-up packet, without its length word (`MAX_STARTUP_PACKET_LENGTH`, pqcomm.h).
pub const STARTUP_BYTES_MAX: usize = 10_000;
/// Longest message of kinds that carry names only (`PQ_SMALL_MESSAGE_LIMIT`, libpq.h).
pub const SMALL_MESSAGE_BYTES_MAX: u32 = 10_000;
/// Longest message of kinds that carry data (`PQ_LARGE_MESSAGE_LIMIT`: the largest allocation, less 1).
pub const LARGE_MESSAGE_BYTES_MAX: u32 = 0x3FFF_FFFE;
/// Longest authentication token (`PG_MAX_AUTH_TOKEN_LENGTH`, libpq/auth.h).
pub const AUTHENTICATION_BYTES_MAX: u32 = 65_535;
/// Longest cancel key of protocol 3.2; under 3.0 it is exactly [`CANCEL_KEY_BYTES_V30`].
pub const CANCEL_KEY_BYTES_MAX: usize = 256;
/// Length of a cancel key under protocol 3.0.
pub const CANCEL_KEY_BYTES_V30: usize = 4;
/// Longest identifier that Postgres keeps (`NAMEDATALEN` − 1): user and database names are cut here.
pub const IDENTIFIER_BYTES_MAX: usize = 63;
/// Most blocks that one page stream request may ask for: a 1 MiB reply.
pub const PAGESTREAM_BLOCKS_MAX: u16 = 128;

// ---- authentication ----

/// Most PBKDF2 rounds that a server may demand of us as a client: above, a hostile server could
/// hold a core for minutes. Postgres' default is 4096; RFC 7677 asks for at least that.
pub const SCRAM_ITERATIONS_MAX: u32 = 1_000_000;
/// Longest salt, decoded. Postgres uses 16 bytes.
pub const SCRAM_SALT_BYTES_MAX: usize = 1024;
/// Longest SCRAM message of either side.
pub const SCRAM_MESSAGE_BYTES_MAX: usize = 8192;
/// Longest password (`PG_MAX_AUTH_TOKEN_LENGTH` bounds it in Postgres, too).
pub const PASSWORD_BYTES_MAX: usize = 65_535;

// ---- WAL ----

/// Longest WAL record (`XLogRecordMaxSize` of Postgres 16, below the largest allocation of older servers).
pub const WAL_RECORD_BYTES_MAX: usize = 1020 << 20;

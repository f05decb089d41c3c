//! Appending the fields of messages to a byte vector.

/// Appends one message: its kind, its length (filled in afterwards) and what `body` appends.
pub fn message(out: &mut Vec<u8>, kind: u8, body: impl FnOnce(&mut Vec<u8>)) {
    out.push(kind);
    packet(out, body);
}

/// Appends a packet without a kind byte, as the start-up packets are: length, then body.
pub fn packet(out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    body(out);
    if let Some(field) = out.get_mut(start..).and_then(|packet| {
        let length = length_field(packet.len());
        packet.first_chunk_mut::<4>().map(|field| (field, length))
    }) {
        *field.0 = field.1.to_be_bytes();
    }
}

/// Appends a string and its terminator. A zero byte within would let a value pass for the fields
/// behind it, so the string ends there.
pub fn string(out: &mut Vec<u8>, text: impl AsRef<[u8]>) {
    let text = text.as_ref();
    let end = text.iter().position(|b| *b == 0).unwrap_or(text.len());
    out.extend_from_slice(text.get(..end).unwrap_or_default());
    out.push(0);
}

/// Appends a value: its 32-bit length and its bytes, or −1 for NULL.
pub fn value(out: &mut Vec<u8>, value: Option<&[u8]>) {
    match value {
        None => i32(out, -1),
        Some(bytes) => {
            i32(out, length_field(bytes.len()));
            out.extend_from_slice(bytes);
        }
    }
}

/// Appends a 16-bit count of elements. Callers bound their lists; a longer one would not be sent
/// whole, so the count stops at the largest there is.
pub fn count(out: &mut Vec<u8>, count: usize) {
    out.extend_from_slice(&u16::try_from(count).unwrap_or(u16::MAX).to_be_bytes());
}

pub fn i16(out: &mut Vec<u8>, number: i16) {
    out.extend_from_slice(&number.to_be_bytes());
}

pub fn i32(out: &mut Vec<u8>, number: i32) {
    out.extend_from_slice(&number.to_be_bytes());
}

pub fn u32(out: &mut Vec<u8>, number: u32) {
    out.extend_from_slice(&number.to_be_bytes());
}

pub fn i64(out: &mut Vec<u8>, number: i64) {
    out.extend_from_slice(&number.to_be_bytes());
}

pub fn u64(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(&number.to_be_bytes());
}

/// Lengths on the wire are signed 32-bit; what we build is far below (a message is at most 1 GiB).
fn length_field(length: usize) -> i32 {
    i32::try_from(length).unwrap_or(i32::MAX)
}

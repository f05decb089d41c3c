//! The small files that are written whole: a line with a title (which names kind and version) and the CRC-32C of the rest,
//! then JSON.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// A file's bytes.
pub(crate) fn seal<T: Serialize + ?Sized>(title: &str, value: &T) -> Vec<u8> {
    let mut json = serde_json::to_vec_pretty(value).expect("plain fields become JSON");
    json.push(b'\n');
    let mut bytes = format!("{title} {:08x}\n", crc32c::crc32c(&json)).into_bytes();
    bytes.append(&mut json);
    bytes
}

/// What is in a file's bytes; `None` if a byte of it has changed, or it has another title.
pub(crate) fn open<T: DeserializeOwned>(title: &str, bytes: &[u8]) -> Option<T> {
    let end = bytes.iter().position(|&byte| byte == b'\n')?;
    let (line, json) = (bytes.get(..end)?, bytes.get(end + 1..)?);
    let is_right = line == format!("{title} {:08x}", crc32c::crc32c(json)).as_bytes();
    if is_right { serde_json::from_slice(json).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_is_refused_with_any_byte_changed_and_under_another_title() {
        let bytes = seal("howdah test 1", &["a", "b"]);
        assert_eq!(open("howdah test 1", &bytes), Some(vec!["a".to_owned(), "b".to_owned()]));
        assert_eq!(open::<Vec<String>>("howdah test 2", &bytes), None);
        for place in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[place] ^= 1;
            assert_eq!(open::<Vec<String>>("howdah test 1", &changed), None, "byte {place}");
            assert_eq!(open::<Vec<String>>("howdah test 1", &bytes[..place]), None, "cut {place}");
        }
    }
}

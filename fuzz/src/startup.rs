//! Start-up packets: no input panics, and a packet's parameters can be built again.

use pg::wire::startup::{self, Opening, Packet, ProtocolVersion};

/// Takes one input.
pub fn run(data: &[u8]) {
    let Ok(Opening::Packet(packet, length)) = startup::open(data) else { return };
    assert!(length <= data.len());
    let mut built = Vec::new();
    match packet {
        Packet::Startup(message) => {
            startup::write_startup(&mut built, message.version, message.parameters());
            let _ = (message.user(), message.database(), message.replication());
            assert!(message.version_to_speak(ProtocolVersion::LATEST) <= ProtocolVersion::LATEST);
        }
        Packet::Cancel(cancel) => {
            startup::write_cancel_request(&mut built, cancel.process_id, cancel.key);
        }
        Packet::Ssl => startup::write_ssl_request(&mut built),
        Packet::Gss => startup::write_gssenc_request(&mut built),
    }
    assert_eq!(built, &data[..length]);
}

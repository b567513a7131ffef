//! What a data directory says about the cluster: the metadata log and `corelog.json`.

use std::path::Path;

use corelog::cluster::identity::{FORMAT_VERSION, Identity};
use corelog::cluster::metadata::{Image, Record};

use super::watch::frugal;

/// Frames of metadata records.
pub(crate) mod metadata_log {
    use super::*;
    use corelog::cluster::metadata_log::{decode, encode};

    const FRAME_HEADER_BYTES: usize = 8;

    pub(crate) fn check(bytes: &[u8]) -> bool {
        check_bytes(&seal(bytes));
        check_bytes(bytes)
    }

    pub(crate) fn samples() -> Vec<Vec<u8>> {
        let id = |first: char| first.to_string() + "AAAAAAAAAAAAAAAAAAAAA";
        let configs = [("retention.ms".to_owned(), "1000".to_owned())];
        let created = |first, name: &str| Record::TopicCreated {
            id: id(first),
            name: name.to_owned(),
            partitions: 3,
            leader_epoch: 0,
            configs: configs.clone().into(),
        };
        let records = [
            created('B', "orders"),
            created('C', "users"),
            Record::PartitionsAdded {
                id: id('B'),
                partitions: 5,
            },
            Record::TopicConfigured {
                id: id('B'),
                configs: configs.clone().into(),
            },
            Record::TopicDeleted { id: id('C') },
            Record::Durable,
            Record::BrokerConfigured {
                configs: configs.clone().into(),
            },
            Record::GroupConfigured {
                group: "g".to_owned(),
                configs: configs.into(),
            },
            Record::ProducerIdsReserved { next: 2_000 },
        ];
        vec![encode(&records), encode(&[Record::TombstonesCleared])]
    }

    fn check_bytes(bytes: &[u8]) -> bool {
        let (records, valid) = match frugal(bytes.len(), || decode(bytes)) {
            Ok(decoded) => decoded,
            Err(position) => {
                assert!(usize::try_from(position).is_ok_and(|at| at < bytes.len()));
                return false;
            }
        };
        assert!(valid <= bytes.len());
        let encoded = encode(&records);
        assert_eq!(decode(&encoded), Ok((records.clone(), encoded.len())));
        if let Ok(image) = Image::default().apply(&records) {
            let snapshot = image.to_records();
            let again = Image::default()
                .apply(&snapshot)
                .expect("a snapshot is applied");
            assert_eq!(again.to_records(), snapshot);
            assert_eq!(again.partition_count(), image.partition_count());
        }
        valid == bytes.len() && !records.is_empty()
    }

    /// Puts lengths and checksums right, as far as the bytes go.
    fn seal(bytes: &[u8]) -> Vec<u8> {
        let mut sealed = bytes.to_vec();
        let mut rest = &mut sealed[..];
        while rest.len() >= FRAME_HEADER_BYTES {
            let (header, body) = rest.split_at_mut(FRAME_HEADER_BYTES);
            let said = u32::from_le_bytes(header[..4].try_into().expect("four bytes"));
            let length = usize::try_from(said).expect("64 bits").min(body.len());
            let (payload, behind) = body.split_at_mut(length);
            let length = u32::try_from(length).expect("a small input");
            header[..4].copy_from_slice(&length.to_le_bytes());
            header[4..].copy_from_slice(&crc32c::crc32c(payload).to_le_bytes());
            rest = behind;
        }
        sealed
    }
}

/// `corelog.json`.
pub(crate) mod identity {
    use super::*;

    pub(crate) fn check(bytes: &[u8]) -> bool {
        if let Some(sealed) = seal(bytes) {
            check_bytes(&sealed);
        }
        check_bytes(bytes)
    }

    pub(crate) fn samples() -> Vec<Vec<u8>> {
        let identity = Identity {
            format_version: FORMAT_VERSION,
            cluster_id: "AAAAAAAAAAAAAAAAAAAAAA".to_owned(),
            node_id: 1,
            shard_count: 2,
        };
        vec![identity.encode()]
    }

    fn check_bytes(bytes: &[u8]) -> bool {
        let path = Path::new("corelog.json");
        let Ok(identity) = frugal(bytes.len(), || Identity::decode(bytes, path)) else {
            return false;
        };
        let again = Identity::decode(&identity.encode(), path).expect("what was encoded");
        assert_eq!(again, identity);
        true
    }

    /// Puts the checksum right, where the fields are those of an identity.
    fn seal(bytes: &[u8]) -> Option<Vec<u8>> {
        let mut json: serde_json::Value = serde_json::from_slice(bytes).ok()?;
        let identity: Identity = serde_json::from_value(json.clone()).ok()?;
        let plain = serde_json::to_vec(&identity).ok()?;
        let crc = crc32c::crc32c(&plain).into();
        json.as_object_mut()?.insert("crc32c".to_owned(), crc);
        serde_json::to_vec(&json).ok()
    }
}

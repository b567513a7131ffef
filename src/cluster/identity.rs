//! `corelog.json`: whose data directory this is.
//!
//! Promises: a directory of a newer format, of another node, or with a damaged identity is refused
//! before anything in it is touched. Replaced atomically.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::rt;

/// Version of the whole directory layout that this program writes and reads.
pub const FORMAT_VERSION: u32 = 1;
/// Name of the file in the data directory.
pub const FILE_NAME: &str = "corelog.json";

/// What the file says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Layout of the directory.
    pub format_version: u32,
    /// Kafka's cluster id: 22 characters of base64url.
    pub cluster_id: String,
    /// The broker that owns the directory.
    pub node_id: i32,
    /// Shards of the last run; each of them has a journal. 0 until the first start has made them.
    pub shard_count: u16,
}

#[derive(Serialize, Deserialize)]
struct Sealed {
    #[serde(flatten)]
    identity: Identity,
    crc32c: u32,
}

/// Why a directory is not this broker's.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file system refused.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// Not our JSON, or changed by hand.
    #[error("{path} is damaged: restore it from a backup")]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// Written by a newer Corelog.
    #[error(
        "{path} says format version {got}, this program knows up to {FORMAT_VERSION}: start a \
         newer Corelog"
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        got: u32,
    },
    /// Another broker's.
    #[error(
        "{path} belongs to node {got}, but node.id is {expected}: set node.id={got} or another \
         data directory"
    )]
    OtherNode {
        /// The file.
        path: PathBuf,
        /// Its owner.
        got: i32,
        /// Ours.
        expected: i32,
    },
    /// Another cluster's.
    #[error(
        "{path} belongs to cluster {got}, but cluster.id is {expected}: set cluster.id={got}, \
         leave it out, or choose another data directory"
    )]
    OtherCluster {
        /// The file.
        path: PathBuf,
        /// Its cluster.
        got: String,
        /// Ours.
        expected: String,
    },
    /// There are topics, but nothing that says whose.
    #[error(
        "{path} is missing, and {metadata} is there: restore the file from a backup, or move the \
         whole directory away and start with an empty one"
    )]
    Missing {
        /// The file.
        path: PathBuf,
        /// The metadata of a broker.
        metadata: PathBuf,
    },
}

impl Identity {
    /// Reads and checks the identity; `None` in a directory that has none yet. `cluster_id` is
    /// what a setting says, if it says anything.
    pub async fn load(
        data_dir: &Path,
        node_id: i32,
        cluster_id: Option<&str>,
    ) -> Result<Option<Self>, Error> {
        let path = data_dir.join(FILE_NAME);
        if !rt::fs::exists(&path).await? {
            return Ok(None);
        }
        let bytes = rt::fs::read(&path).await?;
        let identity = Self::decode(&bytes, &path)?;
        if identity.node_id != node_id {
            let got = identity.node_id;
            return Err(Error::OtherNode {
                path,
                got,
                expected: node_id,
            });
        }
        if let Some(expected) = cluster_id.filter(|expected| *expected != identity.cluster_id) {
            return Err(Error::OtherCluster {
                path,
                got: identity.cluster_id,
                expected: expected.to_owned(),
            });
        }
        Ok(Some(identity))
    }

    /// Reads the file's bytes; `path` is for what is wrong with them.
    pub fn decode(bytes: &[u8], path: &Path) -> Result<Self, Error> {
        let damaged = || Error::Damaged {
            path: path.to_owned(),
        };
        let json: serde_json::Value = serde_json::from_slice(bytes).map_err(|_| damaged())?;
        // The version comes first: a newer format may have other fields and another checksum.
        let version = json
            .get("format_version")
            .and_then(serde_json::Value::as_u64);
        let got = u32::try_from(version.ok_or_else(damaged)?).map_err(|_| damaged())?;
        if got > FORMAT_VERSION {
            return Err(Error::Newer {
                path: path.to_owned(),
                got,
            });
        }
        let sealed: Sealed = serde_json::from_value(json).map_err(|_| damaged())?;
        if sealed.crc32c != sealed.identity.checksum() {
            return Err(damaged());
        }
        Ok(sealed.identity)
    }

    /// Replaces the file; durable when this returns.
    pub async fn store(&self, data_dir: &Path) -> Result<(), Error> {
        rt::fs::write_atomic(&data_dir.join(FILE_NAME), self.encode()).await?;
        Ok(())
    }

    /// The file's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let sealed = Sealed {
            identity: self.clone(),
            crc32c: self.checksum(),
        };
        let mut bytes = serde_json::to_vec_pretty(&sealed).expect("plain fields");
        bytes.push(b'\n');
        bytes
    }

    fn checksum(&self) -> u32 {
        crc32c::crc32c(&serde_json::to_vec(self).expect("plain fields"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        let cluster_id = "AAAAAAAAAAAAAAAAAAAAAA".to_owned();
        Identity {
            format_version: FORMAT_VERSION,
            cluster_id,
            node_id: 1,
            shard_count: 2,
        }
    }

    #[test]
    fn the_file_has_these_bytes() {
        let text = r#"{
  "format_version": 1,
  "cluster_id": "AAAAAAAAAAAAAAAAAAAAAA",
  "node_id": 1,
  "shard_count": 2,
  "crc32c": 2363918616
}
"#;
        assert_eq!(String::from_utf8(identity().encode()).unwrap(), text);
        // the sum is that of the other fields without blanks, in this order
        let summed = r#"{"format_version":1,"cluster_id":"AAAAAAAAAAAAAAAAAAAAAA","#.to_owned()
            + r#""node_id":1,"shard_count":2}"#;
        assert_eq!(crc32c::crc32c(summed.as_bytes()), 2_363_918_616);
    }

    #[test]
    fn an_identity_is_read_back_and_a_changed_one_is_refused() {
        let path = Path::new("x/corelog.json");
        let bytes = identity().encode();
        assert_eq!(Identity::decode(&bytes, path).unwrap(), identity());
        let text = String::from_utf8(bytes).unwrap();
        let changed = text.replace("\"node_id\": 1", "\"node_id\": 2");
        let refused = Identity::decode(changed.as_bytes(), path).unwrap_err();
        assert!(matches!(refused, Error::Damaged { .. }), "{refused}");
    }

    #[test]
    fn a_newer_format_is_named_as_such_whatever_else_it_holds() {
        let refused = Identity::decode(br#"{"format_version": 2, "x": []}"#, Path::new("c"));
        assert!(matches!(refused, Err(Error::Newer { got: 2, .. })));
    }
}

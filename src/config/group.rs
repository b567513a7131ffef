//! Settings of one consumer group, as clients set them with a group resource.
//!
//! Pure: no async, no clock, no IO. All of them belong to group protocols that are not served, so
//! they are checked and kept, and that is all.

use super::error::Error;
use super::inert;
use super::layers;
use super::table::{Row, nearest};

const ORIGIN: &str = "group";

/// The group row of that name.
pub fn find_row(name: &str) -> Option<&'static Row> {
    inert::GROUP_ROWS.iter().find(|row| row.key == name)
}

/// Whether a group can have this value.
pub fn check(name: &str, value: &str) -> Result<(), Error> {
    let row = find_row(name).ok_or_else(|| {
        let known = inert::GROUP_ROWS.iter().map(|row| row.key);
        Error::Unknown {
            name: name.to_owned(),
            value: value.to_owned(),
            origin: ORIGIN.to_owned(),
            suggestion: nearest(name, known).map(str::to_owned),
        }
    })?;
    layers::check(row, name, value, ORIGIN).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values_are_taken_and_others_refused() {
        assert_eq!(check("consumer.session.timeout.ms", "50000"), Ok(()));
        assert!(check("consumer.session.timeout.ms", "1").is_err());
        assert!(check("retention.ms", "1").is_err());
    }
}

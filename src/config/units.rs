//! Numbers with units as people write them: sizes (`64KiB`, `1GiB`) and times (`250us`, `2ms`).
//!
//! Pure: no async, no clock, no IO.
//! A bare number is bytes; a time needs its unit, except 0.

use std::time::Duration;

const SIZE_UNITS: &[(&str, u64)] = &[
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
];

const TIME_UNITS: &[(&str, u64)] = &[
    ("us", 1_000),
    ("ms", 1_000_000),
    ("min", 60_000_000_000),
    ("s", 1_000_000_000),
];

fn parse_with(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let text = text.trim();
    for (unit, factor) in units {
        if let Some(number) = text.strip_suffix(unit) {
            return number.trim_end().parse::<u64>().ok()?.checked_mul(*factor);
        }
    }
    None
}

/// `64KiB`, `1 MiB`, `4096`: a number of bytes.
pub fn parse_size(text: &str) -> Option<u64> {
    text.trim()
        .parse()
        .ok()
        .or_else(|| parse_with(text, SIZE_UNITS))
}

/// `250us`, `2ms`, `1s`, `0`.
pub fn parse_duration(text: &str) -> Option<Duration> {
    if text.trim() == "0" {
        return Some(Duration::ZERO);
    }
    parse_with(text, TIME_UNITS).map(Duration::from_nanos)
}

/// The largest binary unit that divides the size: `64KiB`; 0 is `0`.
pub fn format_size(bytes: u64) -> String {
    for (unit, factor) in &SIZE_UNITS[..3] {
        if bytes >= *factor && bytes.is_multiple_of(*factor) {
            return format!("{}{unit}", bytes / factor);
        }
    }
    bytes.to_string()
}

/// A size for people, with one decimal: `15.6 GiB`.
pub fn format_about(bytes: u64) -> String {
    let (unit, factor) = SIZE_UNITS[..3]
        .iter()
        .find(|(_, factor)| bytes >= *factor)
        .unwrap_or(&("B", 1));
    let tenths = u128::from(bytes) * 10 / u128::from(*factor);
    format!("{}.{} {unit}", tenths / 10, tenths % 10)
}

/// The largest unit that divides the time: `250us`; 0 is `0`.
pub fn format_duration(time: Duration) -> String {
    let nanos = time.as_nanos();
    if nanos == 0 {
        return "0".to_owned();
    }
    for (unit, factor) in [("s", 1_000_000_000), ("ms", 1_000_000)] {
        if nanos.is_multiple_of(factor) {
            return format!("{}{unit}", nanos / factor);
        }
    }
    format!("{}us", nanos / 1_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_for_people_have_one_decimal() {
        assert_eq!(format_about(1_471_561_728), "1.3 GiB");
        assert_eq!(format_about(64 << 20), "64.0 MiB");
        assert_eq!(format_about(900), "900.0 B");
        assert_eq!(format_about(u64::MAX), "17179869183.9 GiB");
    }

    #[test]
    fn sizes_take_binary_and_decimal_units() {
        assert_eq!(parse_size("4096"), Some(4096));
        assert_eq!(parse_size("64KiB"), Some(65_536));
        assert_eq!(parse_size("1 GiB"), Some(1 << 30));
        assert_eq!(parse_size("5MB"), Some(5_000_000));
        assert_eq!(parse_size("-1"), None);
        assert_eq!(parse_size("64K"), None);
        assert_eq!(parse_size("99999999999GiB"), None);
    }

    #[test]
    fn times_need_a_unit_except_zero() {
        assert_eq!(parse_duration("250us"), Some(Duration::from_micros(250)));
        assert_eq!(parse_duration("2ms"), Some(Duration::from_millis(2)));
        assert_eq!(parse_duration("3min"), Some(Duration::from_mins(3)));
        assert_eq!(parse_duration("0"), Some(Duration::ZERO));
        assert_eq!(parse_duration("5"), None);
    }

    #[test]
    fn formatted_values_parse_to_the_same_value() {
        for bytes in [0, 1, 4096, 65_536, 1 << 30, (1 << 30) + 1] {
            assert_eq!(parse_size(&format_size(bytes)), Some(bytes));
        }
        for micros in [0, 1, 250, 2_000, 3_000_000] {
            let time = Duration::from_micros(micros);
            assert_eq!(parse_duration(&format_duration(time)), Some(time));
        }
    }
}

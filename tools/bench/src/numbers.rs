//! Numbers between integers and floats, and sizes as people write them.
//!
//! Pure: no async, no clock, no IO.

/// Nanoseconds of a second.
pub(crate) const SECOND_NS: u64 = 1_000_000_000;

/// As a float: figures here stay far below 2^53.
#[expect(
    clippy::cast_precision_loss,
    reason = "counts and nanoseconds of a run stay below 2^53"
)]
pub(crate) const fn float(value: u64) -> f64 {
    value as f64
}

/// A length as a float.
pub(crate) fn float_len(value: usize) -> f64 {
    float(value as u64)
}

/// The whole part of a float that is not negative.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "truncation is the purpose, and the cast saturates"
)]
pub(crate) const fn whole(value: f64) -> u64 {
    value as u64
}

/// The whole part of a float as an index or a length.
pub(crate) fn whole_len(value: f64) -> usize {
    usize::try_from(whole(value)).unwrap_or(usize::MAX)
}

/// A length on the wire.
pub(crate) fn wire_len(value: usize) -> i32 {
    i32::try_from(value).expect("what is sent is shorter than 2 GiB")
}

/// Seconds of a duration in nanoseconds.
pub(crate) fn seconds(nanos: u64) -> f64 {
    float(nanos) / 1e9
}

/// A number of bytes: `65536`, `64KiB`, `1MiB`, `8GiB`, `64k`.
pub(crate) fn parse_bytes(text: &str) -> Result<u64, String> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => 1 << 20,
        "g" | "gb" | "gib" => 1 << 30,
        _ => return Err(format!("`{unit}` is no unit: KiB, MiB and GiB are")),
    };
    let number: u64 = number.parse().map_err(|_| "a number of bytes".to_owned())?;
    let bytes = number.checked_mul(factor);
    bytes.ok_or_else(|| "more than 2^64 bytes".to_owned())
}

/// `1234567.8` as `1.23 M`.
pub(crate) fn short(value: f64) -> String {
    let (scaled, unit) = match value {
        v if v >= 1e9 => (v / 1e9, " G"),
        v if v >= 1e6 => (v / 1e6, " M"),
        v if v >= 1e4 => (v / 1e3, " k"),
        v => (v, " "),
    };
    match scaled {
        s if s >= 100.0 || unit == " " => format!("{s:.0}{unit}"),
        s if s >= 10.0 => format!("{s:.1}{unit}"),
        s => format!("{s:.2}{unit}"),
    }
}

/// Microseconds as `345 us`, `1.23 ms` or `4.56 s`.
pub(crate) fn short_us(us: u64) -> String {
    match us {
        0..1_000 => format!("{us} us"),
        1_000..1_000_000 => format!("{:.2} ms", float(us) / 1e3),
        _ => format!("{:.2} s", float(us) / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_and_without_units() {
        assert_eq!(parse_bytes("65536"), Ok(65_536));
        assert_eq!(parse_bytes("64KiB"), Ok(65_536));
        assert_eq!(parse_bytes("1m"), Ok(1 << 20));
        for wrong in [
            "",
            "KiB",
            "12x",
            "-1",
            "99999999999999999999",
            "99999999999GiB",
        ] {
            assert!(parse_bytes(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn figures_are_short() {
        assert_eq!(short(123.4), "123 ");
        assert_eq!(short(12_345.0), "12.3 k");
        assert_eq!(short(7_954_321.0), "7.95 M");
        assert_eq!(short_us(999), "999 us");
        assert_eq!(short_us(1_234), "1.23 ms");
        assert_eq!(short_us(4_560_000), "4.56 s");
    }
}

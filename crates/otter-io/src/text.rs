//! Numbers as a person reads and writes them: counts, sizes, durations, bytes in hexadecimal.

/// A count with a separator between groups of three digits.
pub fn grouped(value: u64, separator: &str) -> String {
    let digits = value.to_string();
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().filter_map(|group| std::str::from_utf8(group).ok()).collect();
    groups.join(separator)
}

/// A count with commas: 1,310,923,344.
pub fn count(value: u64) -> String {
    grouped(value, ",")
}

/// Bytes in the largest binary unit that fits, with so many decimals from KiB on.
pub fn bytes(value: u64, decimals: usize) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut scaled = value as f64;
    let mut unit = 0;
    while scaled >= 1024.0 && unit + 1 < UNITS.len() {
        scaled /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{value} B") } else { format!("{scaled:.decimals$} {}", UNITS[unit]) }
}

/// Reads a size such as `22GiB`, `1.5 GB` or `100` (bytes).
///
/// # Errors
/// What is wrong with it.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1u64,
        "kb" => 1000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        _ => return Err(format!("`{unit}` is no unit; use B, KB, MB, GB, TB, KiB, MiB or GiB")),
    };
    let size = number.parse::<f64>().ok().map(|value| value * factor as f64);
    match size {
        Some(size) if (1.0..1e18).contains(&size) => Ok(size as u64),
        _ => Err("expected a size of at least one byte, e.g. 5GB".to_owned()),
    }
}

/// `2 min 13 s`; a dash where the number is no duration.
pub fn duration(seconds: f64) -> String {
    if !seconds.is_finite() || seconds < 0.0 {
        return "–".to_owned();
    }
    let whole = seconds.round() as u64;
    match whole {
        0..10 => format!("{seconds:.1} s"),
        10..60 => format!("{whole} s"),
        60..3600 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", whole / 3600, whole % 3600 / 60),
    }
}

/// Lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_and_sizes_read_well() {
        assert_eq!(count(8_220_463_120), "8,220,463,120");
        assert_eq!(count(12), "12");
        assert_eq!(grouped(1_234_567, "\u{202F}"), "1\u{202F}234\u{202F}567");
        assert_eq!(bytes(17, 2), "17 B");
        assert_eq!(bytes(1536, 1), "1.5 KiB");
        assert_eq!(bytes(1536, 2), "1.50 KiB");
        assert_eq!(bytes(33 << 30, 2), "33.00 GiB");
        assert_eq!(bytes(3 << 40, 1), "3.0 TiB");
        assert_eq!(hex(&[0, 0x1f, 0xff]), "001fff");
    }

    #[test]
    fn sizes_take_units() {
        assert_eq!(parse_bytes("22GiB"), Ok(22 << 30));
        assert_eq!(parse_bytes("5GB"), Ok(5_000_000_000));
        assert_eq!(parse_bytes("1.5 MiB"), Ok(1_572_864));
        assert_eq!(parse_bytes("100"), Ok(100));
        for wrong in ["", "GB", "5XB", "-1GB", "0", "1e9", "99999999TB"] {
            assert!(parse_bytes(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn durations_read_well() {
        assert_eq!(duration(3.04), "3.0 s");
        assert_eq!(duration(133.0), "2 min 13 s");
        assert_eq!(duration(7500.0), "2 h 05 min");
        assert_eq!(duration(f64::NAN), "–");
    }
}

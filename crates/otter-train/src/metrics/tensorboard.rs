//! TensorBoard event files: TFRecord framing (length, masked CRC-32C, bytes, masked CRC-32C) around `Event` protocol
//! buffers, of which only the few fields needed for scalars are written.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::error::{Result, TrainError};

/// Castagnoli polynomial, bits reversed.
const POLYNOMIAL: u32 = 0x82F6_3B78;

const TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        let mut value = i as u32;
        let mut bit = 0;
        while bit < 8 {
            value = if value & 1 == 1 { (value >> 1) ^ POLYNOMIAL } else { value >> 1 };
            bit += 1;
        }
        table[i] = value;
        i += 1;
    }
    table
};

/// CRC-32C of `bytes`.
pub fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, &byte| TABLE[usize::from(crc as u8 ^ byte)] ^ (crc >> 8))
}

/// The masked form stored in records, so that a checksum of checksums stays meaningful.
fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// `bytes` as one TFRecord.
fn record(bytes: &[u8]) -> Vec<u8> {
    let length = (bytes.len() as u64).to_le_bytes();
    let mut out = Vec::with_capacity(bytes.len() + 16);
    out.extend_from_slice(&length);
    out.extend_from_slice(&masked_crc(&length).to_le_bytes());
    out.extend_from_slice(bytes);
    out.extend_from_slice(&masked_crc(bytes).to_le_bytes());
    out
}

/// Protocol-buffer fields, by hand.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn key(&mut self, field: u64, wire_type: u64) {
        self.varint(field << 3 | wire_type);
    }

    fn integer(mut self, field: u64, value: u64) -> Self {
        self.key(field, 0);
        self.varint(value);
        self
    }

    fn double(mut self, field: u64, value: f64) -> Self {
        self.key(field, 1);
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    fn float(mut self, field: u64, value: f32) -> Self {
        self.key(field, 5);
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    fn bytes(mut self, field: u64, value: &[u8]) -> Self {
        self.key(field, 2);
        self.varint(value.len() as u64);
        self.0.extend_from_slice(value);
        self
    }
}

/// `Event` with its time; fields: wall_time 1, step 2, file_version 3, summary 5, session_log 7.
fn event(wall_time: f64) -> Message {
    Message::default().double(1, wall_time)
}

/// `Event { step, summary { value { tag, simple_value } … } }`.
fn scalars_event(wall_time: f64, step: u64, scalars: &[(&str, f64)]) -> Vec<u8> {
    let summary = scalars.iter().fold(Message::default(), |summary, (tag, value)| {
        let value = Message::default().bytes(1, tag.as_bytes()).float(2, *value as f32);
        summary.bytes(1, &value.0)
    });
    event(wall_time).integer(2, step).bytes(5, &summary.0).0
}

/// An event file being written. Each call is flushed, so that a running board follows.
pub struct EventFile {
    file: File,
    path: PathBuf,
}

impl EventFile {
    /// A new event file in `directory`. It begins with a mark that tells the board to drop what an earlier file says
    /// about steps after `steps_made`.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn create(directory: &Path, steps_made: u64) -> Result<Self> {
        let seconds = now();
        let base = format!("events.out.tfevents.{}.otter.{}", seconds as u64, std::process::id());
        let mut path = directory.join(&base);
        let mut number = 0;
        let file = loop {
            match File::create_new(&path) {
                Ok(file) => break file,
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists && number < 1000 => {
                    number += 1;
                    path = directory.join(format!("{base}.{number}"));
                }
                Err(error) => return Err(TrainError::io(&path, "create")(error)),
            }
        };
        let mut events = Self { file, path };
        events.append(&event(seconds).bytes(3, b"brain.Event:2").0)?;
        // SessionLog { status: START }
        let start = Message::default().integer(1, 1);
        events.append(&event(seconds).integer(2, steps_made + 1).bytes(7, &start.0).0)?;
        Ok(events)
    }

    /// Adds scalars of one step. Values that are not finite are left out: boards cannot draw them.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn scalars(&mut self, step: u64, scalars: &[(&str, f64)]) -> Result<()> {
        let finite: Vec<(&str, f64)> =
            scalars.iter().copied().filter(|(_, value)| value.is_finite()).collect();
        if finite.is_empty() {
            return Ok(());
        }
        self.append(&scalars_event(now(), step, &finite))
    }

    /// Where it is written.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn append(&mut self, event: &[u8]) -> Result<()> {
        self.file.write_all(&record(event)).map_err(TrainError::io(&self.path, "write"))
    }
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |elapsed| elapsed.as_secs_f64())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    /// Check values of RFC 3720, appendix B.4.
    #[test]
    fn crc32c_gives_the_published_values() {
        assert_eq!(crc32c(b"123456789"), 0xE306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8A91_36AA);
        assert_eq!(crc32c(&[0xff; 32]), 0x62A8_AB43);
        let rising: Vec<u8> = (0..32).collect();
        assert_eq!(crc32c(&rising), 0x46DD_794E);
        assert_eq!(crc32c(b""), 0);
    }

    /// The records of a file, every checksum verified.
    fn records(mut bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut out = Vec::new();
        while !bytes.is_empty() {
            let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
            let unmask = |stored: &[u8]| {
                u32::from_le_bytes(stored.try_into().unwrap()).wrapping_sub(0xa282_ead8).rotate_left(15)
            };
            assert_eq!(unmask(&bytes[8..12]), crc32c(&bytes[..8]));
            let data = &bytes[12..12 + length];
            assert_eq!(unmask(&bytes[12 + length..16 + length]), crc32c(data));
            out.push(data.to_vec());
            bytes = &bytes[16 + length..];
        }
        out
    }

    #[derive(Debug, PartialEq)]
    enum Value {
        Integer(u64),
        Fixed64(u64),
        Fixed32(u32),
        Bytes(Vec<u8>),
    }

    fn fields(mut bytes: &[u8]) -> Vec<(u64, Value)> {
        fn varint(bytes: &mut &[u8]) -> u64 {
            let mut value = 0;
            for shift in (0..).step_by(7) {
                let byte = bytes[0];
                *bytes = &bytes[1..];
                value |= u64::from(byte & 0x7f) << shift;
                if byte < 0x80 {
                    break;
                }
            }
            value
        }
        let mut out = Vec::new();
        while !bytes.is_empty() {
            let key = varint(&mut bytes);
            let value = match key & 7 {
                0 => Value::Integer(varint(&mut bytes)),
                1 => {
                    let (head, rest) = bytes.split_at(8);
                    bytes = rest;
                    Value::Fixed64(u64::from_le_bytes(head.try_into().unwrap()))
                }
                5 => {
                    let (head, rest) = bytes.split_at(4);
                    bytes = rest;
                    Value::Fixed32(u32::from_le_bytes(head.try_into().unwrap()))
                }
                _ => {
                    let length = varint(&mut bytes) as usize;
                    let (head, rest) = bytes.split_at(length);
                    bytes = rest;
                    Value::Bytes(head.to_vec())
                }
            };
            out.push((key >> 3, value));
        }
        out
    }

    fn field(fields: &[(u64, Value)], number: u64) -> &Value {
        &fields.iter().find(|(field, _)| *field == number).unwrap().1
    }

    #[test]
    fn a_written_file_reads_back() {
        let place = tempfile::tempdir().unwrap();
        let mut events = EventFile::create(place.path(), 300).unwrap();
        events.scalars(301, &[("train/loss", 1.5), ("train/learning_rate", 1e-5)]).unwrap();
        events.scalars(302, &[("train/loss", f64::NAN)]).unwrap();
        let second = EventFile::create(place.path(), 0).unwrap();
        assert_ne!(second.path(), events.path());

        let records = records(&std::fs::read(events.path()).unwrap());
        assert_eq!(records.len(), 3);
        assert_eq!(*field(&fields(&records[0]), 3), Value::Bytes(b"brain.Event:2".to_vec()));
        let restart = fields(&records[1]);
        assert_eq!(*field(&restart, 2), Value::Integer(301));
        assert_eq!(*field(&restart, 7), Value::Bytes(vec![8, 1]));
        let step = fields(&records[2]);
        assert_eq!(*field(&step, 2), Value::Integer(301));
        let Value::Fixed64(time) = field(&step, 1) else { panic!("no time") };
        assert!(f64::from_bits(*time) > 1.6e9);
        let Value::Bytes(summary) = field(&step, 5) else { panic!("no summary") };
        let found: Vec<_> = fields(summary)
            .into_iter()
            .map(|(number, value)| {
                assert_eq!(number, 1);
                let Value::Bytes(value) = value else { panic!("not a message") };
                let value = fields(&value);
                let Value::Bytes(tag) = field(&value, 1) else { panic!("no tag") };
                let Value::Fixed32(bits) = field(&value, 2) else { panic!("no value") };
                (String::from_utf8(tag.clone()).unwrap(), f32::from_bits(*bits))
            })
            .collect();
        assert_eq!(found, [("train/loss".to_owned(), 1.5), ("train/learning_rate".to_owned(), 1e-5)]);
    }
}

//! The marker segments in front of the scan.

use super::entropy::{HuffmanTable, ZIGZAG};

/// One color component.
pub(super) struct Component {
    /// Blocks in a minimum coded unit: side by side, and one below the other.
    pub(super) across: usize,
    pub(super) down: usize,
    /// Divisors of the coefficients, row by row.
    pub(super) quantization: [i16; 64],
    pub(super) dc_table: HuffmanTable,
    pub(super) ac_table: HuffmanTable,
}

/// What is needed to decode the scan.
pub(super) struct Headers<'a> {
    pub(super) width: usize,
    pub(super) height: usize,
    /// One (gray) or three (YCbCr).
    pub(super) components: Vec<Component>,
    /// Minimum coded units between restart markers; 0 without markers.
    pub(super) restart_interval: usize,
    /// The last EXIF block, without its name.
    pub(super) exif: Option<&'a [u8]>,
    /// Where the entropy-coded bytes begin.
    pub(super) scan_start: usize,
}

/// A component as the frame header gives it.
#[derive(Clone, Copy)]
struct FrameComponent {
    id: u8,
    across: usize,
    down: usize,
    quantization: usize,
}

struct Frame {
    width: usize,
    height: usize,
    components: Vec<FrameComponent>,
}

#[derive(Default)]
struct Tables<'a> {
    quantization: [Option<[i16; 64]>; 4],
    /// Payload of the table: 16 counts and the symbols.
    dc: [Option<&'a [u8]>; 4],
    ac: [Option<&'a [u8]>; 4],
}

impl<'a> Headers<'a> {
    /// Reads up to the scan; `None` if the file is not of the kind decoded here, or damaged.
    pub(super) fn read(bytes: &'a [u8]) -> Option<Self> {
        if !bytes.starts_with(&[0xFF, 0xD8]) {
            return None;
        }
        let mut at = 2;
        let mut tables = Tables::default();
        let mut frame = None;
        let (mut restart_interval, mut exif) = (0, None);
        let (mut jfif, mut adobe) = (false, None);
        loop {
            if *bytes.get(at)? != 0xFF {
                return None;
            }
            let marker = *bytes.get(at + 1)?;
            if marker == 0xFF {
                at += 1; // A fill byte.
                continue;
            }
            let length = usize::from(u16::from_be_bytes([*bytes.get(at + 2)?, *bytes.get(at + 3)?]));
            let payload = bytes.get(at + 4..at + 2 + length)?;
            at += 2 + length;
            match marker {
                0xC0 | 0xC1 if frame.is_none() => frame = Some(read_frame(payload)?),
                0xC4 => tables.read_huffman(payload)?,
                0xDB => tables.read_quantization(payload)?,
                0xDD => restart_interval = usize::from(u16::from_be_bytes(*payload.first_chunk()?)),
                0xE0 if payload.starts_with(b"JFIF\0") => jfif = true,
                0xE1 if payload.len() > 6 && payload.starts_with(b"Exif\0\0") => exif = Some(&payload[6..]),
                0xEE if payload.len() >= 12 && payload.starts_with(b"Adobe") => adobe = Some(payload[11]),
                0xE0..=0xEF | 0xFE => {}
                0xDA => {
                    let frame = frame?;
                    let ids_are_usual = frame.components.iter().map(|component| component.id).eq([1, 2, 3]);
                    let is_ycbcr = match adobe {
                        Some(transform) => transform == 1,
                        None => jfif || ids_are_usual,
                    };
                    if frame.components.len() == 3 && !is_ycbcr {
                        return None;
                    }
                    let components = read_scan(payload, &frame, &tables)?;
                    let Frame { width, height, .. } = frame;
                    return Some(Self { width, height, components, restart_interval, exif, scan_start: at });
                }
                _ => return None,
            }
        }
    }
}

fn read_frame(payload: &[u8]) -> Option<Frame> {
    let &[precision, h1, h0, w1, w0, count] = payload.first_chunk()?;
    let (height, width) = (u16::from_be_bytes([h1, h0]), u16::from_be_bytes([w1, w0]));
    let described = &payload[6..];
    let usable = precision == 8 && height > 0 && width > 0 && (count == 1 || count == 3);
    if !usable || described.len() != usize::from(count) * 3 {
        return None;
    }
    let mut components: Vec<_> = described
        .chunks_exact(3)
        .map(|part| FrameComponent {
            id: part[0],
            across: usize::from(part[1] >> 4),
            down: usize::from(part[1] & 15),
            quantization: usize::from(part[2]),
        })
        .collect();
    if let [gray] = components.as_mut_slice() {
        // The blocks of a single component follow each other row by row, whatever its factors.
        (gray.across, gray.down) = (1, 1);
    }
    let usual = components.iter().enumerate().all(|(number, component)| {
        let most = if number == 0 { 2 } else { 1 };
        (1..=most).contains(&component.across) && (1..=most).contains(&component.down)
    });
    usual.then_some(Frame { width: width.into(), height: height.into(), components })
}

fn read_scan(payload: &[u8], frame: &Frame, tables: &Tables<'_>) -> Option<Vec<Component>> {
    let count = frame.components.len();
    // All components in one scan, whole coefficients.
    if payload.len() != 4 + 2 * count
        || usize::from(payload[0]) != count
        || payload[1 + 2 * count..] != [0, 63, 0]
    {
        return None;
    }
    let chosen = payload[1..].chunks_exact(2);
    frame
        .components
        .iter()
        .zip(chosen)
        .map(|(component, chosen)| {
            let (dc, ac) = (usize::from(chosen[1] >> 4), usize::from(chosen[1] & 15));
            if chosen[0] != component.id {
                return None;
            }
            Some(Component {
                across: component.across,
                down: component.down,
                quantization: (*tables.quantization.get(component.quantization)?)?,
                dc_table: HuffmanTable::new((*tables.dc.get(dc)?)?)?,
                ac_table: HuffmanTable::new((*tables.ac.get(ac)?)?)?,
            })
        })
        .collect()
}

impl<'a> Tables<'a> {
    fn read_huffman(&mut self, mut payload: &'a [u8]) -> Option<()> {
        while let [class_and_slot, rest @ ..] = payload {
            let symbols: usize = rest.get(..16)?.iter().map(|&count| usize::from(count)).sum();
            let table = rest.get(..16 + symbols)?;
            let slots = match class_and_slot >> 4 {
                0 => &mut self.dc,
                1 => &mut self.ac,
                _ => return None,
            };
            *slots.get_mut(usize::from(class_and_slot & 15))? = Some(table);
            payload = &rest[16 + symbols..];
        }
        Some(())
    }

    fn read_quantization(&mut self, mut payload: &[u8]) -> Option<()> {
        while let [precision_and_slot, rest @ ..] = payload {
            // 16-bit divisors belong to 12-bit files.
            if precision_and_slot >> 4 != 0 {
                return None;
            }
            let mut table = [0; 64];
            for (&position, &divisor) in ZIGZAG.iter().zip(rest.get(..64)?) {
                table[usize::from(position)] = i16::from(divisor);
            }
            *self.quantization.get_mut(usize::from(precision_and_slot & 15))? = Some(table);
            payload = &rest[64..];
        }
        Some(())
    }
}

//! Huffman codes to coefficients.
//!
//! The coded bytes are first copied without their stuffing (a zero after each 0xFF), so that the inner loop takes eight
//! bytes at a time and looks at nothing but bits.

/// Position in an 8 x 8 block, row by row, of the coefficients in the order of the file.
pub(super) const ZIGZAG: [u8; 64] = [
    0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6, 7,
    14, 21, 28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39,
    46, 53, 60, 61, 54, 47, 55, 62, 63,
];

/// Bits looked up at once. Most codes fit together with the coefficient that follows them.
const LOOKUP_BITS: u32 = 11;

/// A table of codes of at most 16 bits.
pub(super) struct HuffmanTable {
    /// By the next [`LOOKUP_BITS`] bits: an [`Entry`].
    lookup: Vec<u32>,
    symbols: [u8; 256],
    /// By length: the first 16-bit value, filled with zeros, above all codes of that length.
    limits: [u32; 17],
    /// By length: position of a code's symbol is the code plus this (wrapping).
    offsets: [u32; 17],
}

/// What the next bits are: `value << 16 | run << 8 | length of code and value`, or, where the value is zero or does not
/// fit, `symbol << 8 | length of the code`, or 0 for a longer code.
struct Entry(u32);

impl Entry {
    fn value(&self) -> i16 {
        (self.0 >> 16) as i16
    }

    fn symbol_or_run(&self) -> u32 {
        self.0 >> 8 & 0xFF
    }

    fn length(&self) -> u32 {
        self.0 & 0xFF
    }
}

impl HuffmanTable {
    /// `table`: how many codes of 1, 2, … 16 bits, then their symbols. `None` if these are no prefix codes.
    pub(super) fn new(table: &[u8]) -> Option<Self> {
        let (counts, listed) = table.split_first_chunk::<16>()?;
        let mut symbols = [0; 256];
        symbols.get_mut(..listed.len())?.copy_from_slice(listed);
        let mut lookup = vec![0; 1 << LOOKUP_BITS];
        let (mut limits, mut offsets) = ([0; 17], [0; 17]);
        let (mut code, mut position) = (0_u32, 0_u32);
        for length in 1..=16_u32 {
            let count = u32::from(counts[length as usize - 1]);
            offsets[length as usize] = position.wrapping_sub(code);
            if code + count > 1 << length {
                return None;
            }
            if length <= LOOKUP_BITS {
                for (code, &symbol) in (code..code + count).zip(&listed[position as usize..]) {
                    fill(&mut lookup, code, length, symbol);
                }
            }
            code += count;
            position += count;
            limits[length as usize] = code << (16 - length);
            code <<= 1;
        }
        Some(Self { lookup, symbols, limits, offsets })
    }

    /// Symbol and length of a code longer than [`LOOKUP_BITS`], at the start of 16 bits.
    #[cold]
    fn long_code(&self, next: u32) -> Option<(u32, u32)> {
        let length = (LOOKUP_BITS + 1..=16).find(|&length| next < self.limits[length as usize])?;
        let position = (next >> (16 - length)).wrapping_add(self.offsets[length as usize]);
        Some((u32::from(*self.symbols.get(position as usize)?), length))
    }
}

/// All entries that begin with a code.
fn fill(lookup: &mut [u32], code: u32, length: u32, symbol: u8) {
    let free = LOOKUP_BITS - length;
    let (run, size) = (u32::from(symbol >> 4), u32::from(symbol & 15));
    let first = (code << free) as usize;
    for (rest, entry) in lookup[first..first + (1 << free)].iter_mut().enumerate() {
        *entry = if size > 0 && size <= free {
            let value = signed(rest as u32 >> (free - size), size);
            (value as u32) << 16 | run << 8 | (length + size)
        } else {
            u32::from(symbol) << 8 | length
        };
    }
}

/// The value that `size` bits stand for: those with a leading zero are negative.
#[inline(always)]
fn signed(bits: u32, size: u32) -> i32 {
    let negative = (bits >> (size - 1)) ^ 1;
    bits as i32 - (((1 << size) - 1) * negative as i32)
}

/// The coded bytes of a scan without stuffing and markers.
pub(super) struct EntropyCoded {
    bytes: Vec<u8>,
    /// End of each part between restart markers.
    ends: Vec<usize>,
}

impl EntropyCoded {
    /// Takes the bytes up to the end-of-image marker; `None` if another marker, or none, ends them.
    pub(super) fn new(mut rest: &[u8]) -> Option<Self> {
        let mut bytes = Vec::with_capacity(rest.len());
        let mut ends = Vec::new();
        loop {
            let at = memchr::memchr(0xFF, rest)?;
            bytes.extend_from_slice(&rest[..at]);
            match *rest.get(at + 1)? {
                0 => bytes.push(0xFF),
                marker @ 0xD0..=0xD7 if usize::from(marker - 0xD0) == ends.len() % 8 => {
                    ends.push(bytes.len())
                }
                0xD9 => break,
                _ => return None,
            }
            rest = &rest[at + 2..];
        }
        ends.push(bytes.len());
        Some(Self { bytes, ends })
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Number of parts.
    pub(super) fn segments(&self) -> usize {
        self.ends.len()
    }

    pub(super) fn segment(&self, number: usize) -> BitReader<'_> {
        let start = if number == 0 { 0 } else { self.ends[number - 1] };
        BitReader { bytes: &self.bytes, at: start, end: self.ends[number], bits: 0, filled: 0 }
    }
}

/// Bits of one part, from the highest of each byte down.
pub(super) struct BitReader<'a> {
    bytes: &'a [u8],
    /// Next byte to take, and the end of the part. Bits beyond the end are whatever follows; see `overran`.
    at: usize,
    end: usize,
    /// The next bits, from the top down; `filled` of them are counted as taken from `bytes`.
    bits: u64,
    filled: u32,
}

impl BitReader<'_> {
    /// At least 56 bits afterwards.
    #[inline(always)]
    fn refill(&mut self) {
        let next = match self.bytes.get(self.at..).and_then(|rest| rest.first_chunk()) {
            Some(chunk) => u64::from_be_bytes(*chunk),
            None => self.last_bytes(),
        };
        self.bits |= next >> self.filled;
        self.at += (63 - self.filled as usize) / 8;
        self.filled |= 56;
    }

    /// Near the end of the file, filled with zeros.
    #[cold]
    fn last_bytes(&self) -> u64 {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let mut bytes = [0; 8];
        bytes[..rest.len()].copy_from_slice(rest);
        u64::from_be_bytes(bytes)
    }

    /// The next 1 to 32 bits.
    #[inline(always)]
    fn peek(&self, count: u32) -> u32 {
        (self.bits >> (64 - count)) as u32
    }

    #[inline(always)]
    fn skip(&mut self, count: u32) {
        self.bits <<= count;
        self.filled -= count;
    }

    /// Whether more bits were used than the part has.
    pub(super) fn overran(&self) -> bool {
        self.at * 8 - self.filled as usize > self.end * 8
    }

    /// Symbol of the next code, which is skipped. Needs 16 bits.
    #[inline(always)]
    fn symbol(&mut self, table: &HuffmanTable, entry: Entry) -> Option<u32> {
        let (symbol, length) = match entry.length() {
            0 => table.long_code(self.peek(16))?,
            length => (entry.symbol_or_run(), length),
        };
        self.skip(length);
        Some(symbol)
    }

    /// Reads the coefficients of a block, all zero before, and returns the position of the last one in the order of the
    /// file. `dc` is the first coefficient of the component's block before.
    #[inline(always)]
    pub(super) fn block(
        &mut self,
        dc_table: &HuffmanTable,
        ac_table: &HuffmanTable,
        dc: &mut i32,
        coefficients: &mut [i16; 64],
    ) -> Option<usize> {
        let dc_lookup: &[u32; 1 << LOOKUP_BITS] = dc_table.lookup.first_chunk()?;
        let ac_lookup: &[u32; 1 << LOOKUP_BITS] = ac_table.lookup.first_chunk()?;
        self.refill();
        let entry = Entry(dc_lookup[self.peek(LOOKUP_BITS) as usize]);
        let difference = if entry.value() != 0 {
            if entry.symbol_or_run() != 0 {
                return None; // 16 or more bits.
            }
            self.skip(entry.length());
            i32::from(entry.value())
        } else {
            match self.symbol(dc_table, entry)? {
                0 => 0,
                size @ 1..=15 => {
                    let bits = self.peek(size);
                    self.skip(size);
                    signed(bits, size)
                }
                _ => return None,
            }
        };
        *dc = dc.wrapping_add(difference);
        coefficients[0] = *dc as i16;
        let (mut next, mut last) = (1_usize, 0);
        // A branch on the number of bits would often be guessed wrong. 56 bits are enough for two looked-up
        // coefficients (11 bits at most) and a third of any kind (31).
        'block: while next < 64 {
            self.refill();
            for _ in 0..3 {
                let entry = Entry(ac_lookup[self.peek(LOOKUP_BITS) as usize]);
                if entry.value() == 0 {
                    let symbol = self.symbol(ac_table, entry)?;
                    let (run, size) = (symbol >> 4, symbol & 15);
                    if size == 0 {
                        if run != 15 {
                            break 'block; // End of block.
                        }
                        next += 16;
                        continue 'block;
                    }
                    next += run as usize;
                    let bits = self.peek(size);
                    self.skip(size);
                    coefficients[usize::from(*ZIGZAG.get(next)? & 63)] = signed(bits, size) as i16;
                    last = next;
                    next += 1;
                    continue 'block;
                }
                next += entry.symbol_or_run() as usize;
                self.skip(entry.length());
                coefficients[usize::from(*ZIGZAG.get(next)? & 63)] = entry.value();
                last = next;
                next += 1;
                if next > 63 {
                    break 'block;
                }
            }
        }
        Some(last)
    }
}

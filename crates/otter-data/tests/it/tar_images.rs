//! Images in tar archives of several writers, and hostile archives.

use std::path::Path;

use otter_data::{ImageTable, OutputForm, WriterOptions, create_writer};

/// A header block as POSIX, GNU or old tar writes it.
fn header(name: &[u8], kind: u8, size: &[u8], magic: &[u8]) -> Vec<u8> {
    let mut block = vec![0; 512];
    block[..name.len()].copy_from_slice(name);
    block[100..107].copy_from_slice(b"0000644");
    block[124..124 + size.len()].copy_from_slice(size);
    block[156] = kind;
    block[257..257 + magic.len()].copy_from_slice(magic);
    seal(&mut block);
    block
}

fn seal(block: &mut [u8]) {
    block[148..156].copy_from_slice(b"        ");
    let sum: u64 = block.iter().map(|&byte| u64::from(byte)).sum();
    block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
}

const POSIX: &[u8] = b"ustar\x0000";
const GNU: &[u8] = b"ustar  \0";

fn entry(name: &str, kind: u8, content: &[u8], magic: &[u8]) -> Vec<u8> {
    let mut bytes = header(name.as_bytes(), kind, format!("{:011o}", content.len()).as_bytes(), magic);
    bytes.extend(content);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

fn open(folder: &Path, parts: &[Vec<u8>]) -> Result<ImageTable, String> {
    let path = folder.join("images.tar");
    std::fs::write(&path, parts.concat()).unwrap();
    ImageTable::open(&path, 0).map_err(|error| error.to_string())
}

#[test]
fn names_of_every_writer_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let long = format!("{}/{}.png", "d".repeat(120), "n".repeat(90));
    let pax = |fields: &[(&str, &str)]| {
        let record = |(key, value): &(&str, &str)| {
            let rest = format!(" {key}={value}\n");
            let length =
                (rest.len()..).find(|length| length.to_string().len() + rest.len() == *length).unwrap();
            format!("{length}{rest}")
        };
        fields.iter().map(record).collect::<String>()
    };
    let mut with_prefix = header(b"tail.jpg", b'0', b"00000000003", POSIX);
    with_prefix[345..349].copy_from_slice(b"head");
    seal(&mut with_prefix);
    with_prefix.extend(b"six");
    with_prefix.resize(1024, 0);
    let base_256 = [0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4];
    let mut large = header(b"large.webp", b'0', &base_256, GNU);
    large.extend(b"nine");
    large.resize(1024, 0);
    let parts = [
        entry("folder/", b'5', b"", POSIX),
        entry("global", b'g', pax(&[("comment", "x")]).as_bytes(), POSIX),
        entry("./a.png", b'0', b"one", POSIX),
        entry("b.JPG", 0, b"two", b""),
        entry("notes.txt", b'0', b"no image", POSIX),
        entry("@LongLink", b'L', format!("{long}\0").as_bytes(), GNU),
        entry("short.png", b'0', b"four", GNU),
        entry("pax", b'x', pax(&[("mtime", "1"), ("path", "füß/猫.gif"), ("size", "4")]).as_bytes(), POSIX),
        entry("pax.gif", b'0', b"five", POSIX),
        with_prefix,
        entry("a.png", b'0', b"seven", POSIX),
        entry("two.png", b'0', b"8", POSIX),
        entry("two.jpg", b'0', b"88", POSIX),
        large,
        vec![0; 1024],
    ];
    let table = open(folder.path(), &parts).unwrap();
    let get = |id: &str| table.encoded(id).unwrap().map(|bytes| String::from_utf8(bytes).unwrap());
    let expected = [
        ("a", "seven"),
        ("a.png", "seven"),
        ("b", "two"),
        ("füß/猫", "five"),
        ("head/tail", "six"),
        ("two.png", "8"),
        ("two.jpg", "88"),
        ("large", "nine"),
    ];
    for (id, content) in expected {
        assert_eq!(get(id).as_deref(), Some(content), "{id}");
    }
    assert_eq!(get(long.strip_suffix(".png").unwrap()).as_deref(), Some("four"));
    assert_eq!(get("notes"), None);
    assert_eq!(table.len(), 8);
    assert!(table.encoded("two").unwrap_err().to_string().contains("several files"));
    for entry in 0..table.len() {
        let id = table.id(entry).unwrap().into_owned();
        assert_eq!(table.find(&id).unwrap(), Some(entry), "{id}");
    }
}

#[test]
fn hostile_archives_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let good = entry("good.png", b'0', b"1", POSIX);
    let cut = entry("good.png", b'0', &[1; 400], POSIX)[..700].to_vec();
    let mut wrong_sum = good.clone();
    wrong_sum[0] = b'x';
    let cases = [
        (vec![entry("/etc/passwd.png", b'0', b"1", POSIX)], "/etc/passwd.png"),
        (vec![entry("a/../../b.png", b'0', b"1", POSIX)], "a/../../b.png"),
        (vec![good.clone(), entry("link.png", b'2', b"", POSIX)], "link.png"),
        (vec![good.clone(), entry("hard.png", b'1', b"", POSIX)], "hard.png"),
        (vec![header(b"huge.png", b'0', b"77777777777", POSIX)], "huge.png"),
        (vec![header(b"vast.png", b'0', &[0xff; 12], POSIX)], "number"),
        (vec![header(b"odd.png", b'0', b"0000000008x", POSIX)], "number"),
        (vec![cut], "good.png"),
        (vec![good.clone(), good[..300].to_vec()], "cut"),
        (vec![good.clone(), wrong_sum], "checksum"),
        (vec![entry("long", b'L', &vec![b'x'; 70_000], GNU)], "70000"),
        (vec![entry("pax", b'x', b"99 path=x\n", POSIX)], "pax"),
        (vec![entry("pax", b'x', b"5 x\n5 y\n", POSIX)], "pax"),
        (vec![entry("notes.txt", b'0', b"1", POSIX)], "no image"),
    ];
    for (parts, part) in cases {
        let message = open(folder.path(), &parts).err().unwrap_or_else(|| panic!("{part} is accepted"));
        assert!(message.contains("images.tar") && message.contains(part), "no {part} in {message}");
    }
}

#[test]
fn random_damage_is_an_error_not_a_panic() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = create_writer(OutputForm::Tar, folder.path(), "SET", &WriterOptions::default()).unwrap();
    for i in 0..20 {
        writer.image(&format!("{}{i}", "folder/".repeat(i % 8)), &vec![i as u8; i * 100]).unwrap();
    }
    writer.finish().unwrap();
    let original = std::fs::read(folder.path().join("SET.tar")).unwrap();
    let mut random = otter_data::PythonRandom::new(3);
    for _ in 0..500 {
        let mut bytes = original.clone();
        for _ in 0..3 {
            let block = random.below(bytes.len() / 512) * 512;
            let at = block + random.below(512);
            bytes[at] = random.next_u32() as u8;
            if random.below(2) == 0 {
                seal(&mut bytes[block..block + 512]);
            }
        }
        if let Ok(table) = open(folder.path(), &[bytes]) {
            for entry in 0..table.len() {
                let _ = (table.id(entry), table.encoded_entry(entry));
            }
        }
    }
}

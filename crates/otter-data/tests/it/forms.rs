//! Every form of a data set holds the same records, contexts and images.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use otter_data::otter_dataset::Manifest;
use otter_data::verify::{Reason, VerifyOptions, verify};
use otter_data::{
    ContextTable, DataConfig, ImageTable, InstructionTable, OutputForm, Record, WriterOptions, WrittenSet,
    create_writer, output_paths,
};
use proptest::prelude::*;

/// Records and contexts in order, images by id.
#[derive(Debug, Clone, Default, PartialEq)]
struct Set {
    records: Vec<(String, Record)>,
    contexts: Vec<(String, Vec<String>)>,
    images: BTreeMap<String, Vec<u8>>,
}

fn write(set: &Set, form: OutputForm, directory: &Path, options: &WriterOptions) -> WrittenSet {
    let mut writer = create_writer(form, directory, "SET", options).unwrap();
    // Interleaved, as converters do.
    let mut images = set.images.iter();
    for (id, record) in &set.records {
        writer.record(id, record).unwrap();
        if let Some((id, image)) = images.next() {
            writer.image(id, image).unwrap();
        }
    }
    for (id, image) in images {
        writer.image(id, image).unwrap();
    }
    for (id, context) in &set.contexts {
        writer.context(id, context).unwrap();
    }
    writer.finish().unwrap()
}

/// Instructions, images, train file.
fn paths(form: OutputForm, directory: &Path) -> [PathBuf; 3] {
    match form {
        OutputForm::OtterDataset => [directory.into(), directory.into(), directory.into()],
        _ => output_paths(form, directory, "SET").try_into().unwrap(),
    }
}

fn read(form: OutputForm, directory: &Path, set: &Set) -> Set {
    let [instructions, images, train] = paths(form, directory);
    let table = InstructionTable::open(&instructions).unwrap();
    let mut found = Set::default();
    for entry in 0..table.len() {
        let id = table.id(entry).unwrap().into_owned();
        assert_eq!(table.find(&id), Some(entry));
        found.records.push((id, table.record(entry).unwrap()));
    }
    assert_eq!(table.find("no such id"), None);
    if set.contexts.is_empty() {
        assert!(ContextTable::open(&train).is_err());
    } else {
        let table = ContextTable::open(&train).unwrap();
        for entry in 0..table.len() {
            found.contexts.push((table.id(entry).unwrap().into_owned(), table.context(entry).unwrap()));
        }
    }
    if set.images.is_empty() {
        assert!(ImageTable::open(&images, 0).is_err());
    } else {
        let table = ImageTable::open(&images, 1 << 20).unwrap();
        for entry in 0..table.len() {
            let id = table.id(entry).unwrap().into_owned();
            assert_eq!(table.find(&id).unwrap(), Some(entry), "{id}");
            found.images.insert(id.clone(), table.encoded_entry(entry).unwrap());
            assert_eq!(table.encoded(&id).unwrap().as_ref(), found.images.get(&id));
        }
        assert_eq!(table.encoded("no such image").unwrap(), None);
    }
    found
}

fn example(records: usize, images: usize) -> Set {
    let ids = |from: usize, count: usize, kind: &str| {
        (from..from + count).map(|i| format!("{kind}_{i:06}")).collect()
    };
    let mut set = Set::default();
    for i in 0..records {
        let record = Record {
            instruction: format!("What is at place {i}? {}", "word ".repeat(i % 40)),
            answer: if i % 7 == 0 { String::new() } else { format!("Ärger, 猫 and \"quotes\"\n{i}") },
            image_ids: ids(i % images.max(1), i % 4, "SET_IMG"),
            rel_ins_ids: ids(i, i % 3, "SET_INS"),
            language: (i % 5 == 0).then(|| "pt".to_owned()),
            example_only: i % 11 == 0,
        };
        set.records.push((format!("SET_INS_{i:06}"), record));
        if i % 3 == 0 {
            set.contexts.push((format!("SET_INS_{i:06}"), ids(i + 1, i % 9, "SET_INS")));
        }
    }
    for i in 0..images {
        let head: &[u8] = if i % 2 == 0 { b"\x89PNG" } else { b"\xff\xd8\xff" };
        set.images.insert(format!("SET_IMG_{i:06}"), [head, &vec![i as u8; (i * 37) % 5000]].concat());
    }
    set
}

#[test]
fn every_form_gives_back_what_was_written() {
    let set = example(1000, 300);
    for form in OutputForm::ALL {
        for shard_bytes in [None, Some(60_000)] {
            let place = tempfile::tempdir().unwrap();
            let options = WriterOptions { shard_bytes, ..WriterOptions::default() };
            let written = write(&set, form, place.path(), &options);
            assert_eq!((written.records, written.contexts, written.images), (1000, 334, 300));
            assert_eq!(read(form, place.path(), &set), set, "{form}");
            // The bytes are those of the files; nothing else is left.
            let mut bytes = 0;
            let mut open = vec![place.path().to_owned()];
            while let Some(folder) = open.pop() {
                for entry in std::fs::read_dir(folder).unwrap() {
                    let entry = entry.unwrap();
                    assert!(!entry.file_name().to_string_lossy().starts_with('.'));
                    match entry.metadata().unwrap() {
                        metadata if metadata.is_dir() => open.push(entry.path()),
                        metadata => bytes += metadata.len(),
                    }
                }
            }
            assert_eq!(bytes, written.bytes, "{form}");
        }
    }
}

#[test]
fn shards_are_cut_at_their_size_and_listed() {
    let set = example(3000, 400);
    let place = tempfile::tempdir().unwrap();
    let options = WriterOptions { shard_bytes: Some(100_000), ..WriterOptions::default() };
    write(&set, OutputForm::OtterDataset, place.path(), &options);
    let manifest = Manifest::read(place.path()).unwrap();
    manifest.verify_files(place.path(), &mut |_| {}).unwrap();
    let shards: Vec<_> = manifest.files.iter().filter(|file| file.name.starts_with("images-")).collect();
    assert!(shards.len() > 5);
    assert_eq!(shards[0].name, format!("images-00000-of-{:05}.parquet", shards.len()));
    assert!(shards.iter().all(|shard| shard.bytes < 130_000), "{shards:?}");
    assert_eq!(shards.iter().map(|shard| shard.rows).sum::<u64>(), 400);

    // Replaced by a smaller one, old shards are gone; without leave, nothing is replaced.
    let small = example(3, 1);
    let message =
        create_writer(OutputForm::OtterDataset, place.path(), "SET", &options).err().unwrap().to_string();
    assert!(message.contains("manifest.json") && message.contains("already"), "{message}");
    write(&small, OutputForm::OtterDataset, place.path(), &WriterOptions { overwrite: true, ..options });
    assert_eq!(read(OutputForm::OtterDataset, place.path(), &small), small);
    assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 7);
}

#[test]
fn without_an_index_the_ids_are_read() {
    let set = example(500, 50);
    let place = tempfile::tempdir().unwrap();
    write(&set, OutputForm::OtterDataset, place.path(), &WriterOptions::default());
    let mut manifest = Manifest::read(place.path()).unwrap();
    let all = manifest.clone();
    manifest.files.retain(|file| !file.name.ends_with(".index"));
    let save = |manifest: &Manifest| {
        std::fs::write(place.path().join("manifest.json"), serde_json::to_vec(manifest).unwrap()).unwrap();
    };
    save(&manifest);
    assert_eq!(read(OutputForm::OtterDataset, place.path(), &set), set);

    // An index of other files, a cut shard, a wrong count, a foreign version: each is named.
    let refused = |parts: &[&str]| {
        let message = InstructionTable::open(place.path()).err().unwrap().to_string();
        for part in parts {
            assert!(message.contains(part), "no {part} in: {message}");
        }
    };
    let mut other = all.clone();
    other.files[0].sha256 = "00".repeat(32);
    save(&other);
    refused(&["instructions.index", "other files"]);
    other = all.clone();
    other.files[0].bytes += 1;
    save(&other);
    refused(&["instructions-00000-of-00001.parquet", "bytes"]);
    other = all.clone();
    other.files[0].rows += 1;
    save(&other);
    refused(&["instructions-00000-of-00001.parquet", "500", "501"]);
    other = all.clone();
    other.version = 9;
    save(&other);
    refused(&["manifest.json", "9"]);
    other = all.clone();
    other.files[0].name = "../instructions-0.parquet".into();
    save(&other);
    refused(&["manifest.json", "plain file name"]);
}

#[test]
fn repeated_ids_and_ids_that_lead_out_are_refused() {
    for form in OutputForm::ALL {
        let place = tempfile::tempdir().unwrap();
        let mut writer = create_writer(form, place.path(), "SET", &WriterOptions::default()).unwrap();
        writer.image("a", b"1").unwrap();
        writer.record("a", &Record::default()).unwrap();
        writer.context("a", &[]).unwrap();
        for error in [
            writer.image("a", b"2").unwrap_err(),
            writer.record("a", &Record::default()).unwrap_err(),
            writer.context("a", &[]).unwrap_err(),
        ] {
            assert!(error.to_string().contains("\"a\""), "{error}");
        }
        let escapes = matches!(form, OutputForm::Folder | OutputForm::Tar);
        for id in ["../x", "/etc/x", "x/../../y"] {
            let mut writer =
                create_writer(form, &place.path().join("in"), "SET", &WriterOptions::default()).unwrap();
            assert_eq!(writer.image(id, b"1").is_err(), escapes, "{form} {id}");
        }
        assert!(!place.path().join("x.img").exists());
    }
    for name in ["", "../x", "a/b", ".x", "a\0"] {
        assert!(create_writer(OutputForm::Json, Path::new("/tmp"), name, &WriterOptions::default()).is_err());
    }
}

#[test]
fn an_abandoned_writer_leaves_nothing() {
    for form in OutputForm::ALL {
        let place = tempfile::tempdir().unwrap();
        let mut writer = create_writer(form, place.path(), "SET", &WriterOptions::default()).unwrap();
        writer.image("a", b"1").unwrap();
        writer.record("a", &Record::default()).unwrap();
        drop(writer);
        assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0, "{form}");
    }
}

#[test]
fn a_set_can_be_given_as_one_directory() {
    let place = tempfile::tempdir().unwrap();
    write(&example(5, 2), OutputForm::OtterDataset, &place.path().join("set"), &WriterOptions::default());
    let sets = |text: &str| {
        let mut config: DataConfig = toml::from_str(text).unwrap();
        config.resolve(place.path());
        config.resolved_sets()
    };
    let directory = place.path().join("set");
    for set in [
        sets("[[sets]]\ngroup = \"IMAGE_TEXT\"\ndataset = \"set\"\n"),
        sets("[[sets]]\ngroup = \"IMAGE_TEXT\"\ndataset = \"set/manifest.json\"\n"),
    ] {
        let set = set.unwrap().remove(0);
        assert_eq!((set.name.as_str(), &set.instructions), ("SET", &directory));
        assert_eq!((set.images.as_ref(), set.train.as_ref()), (Some(&directory), Some(&directory)));
    }
    for (text, part) in [
        ("[[sets]]\ngroup = \"IMAGE_TEXT\"\ndataset = \"set\"\nimages = \"x\"\n", "keep one form"),
        ("[[sets]]\ngroup = \"IMAGE_TEXT\"\ndataset = \"nowhere\"\n", "nowhere"),
        ("[[sets]]\ngroup = \"IMAGE_TEXT\"\n", "`dataset`"),
    ] {
        let message = sets(text).unwrap_err().to_string();
        assert!(message.contains(part), "{message}");
    }
    assert!(toml::from_str::<DataConfig>("[[sets]]\ngroup = \"IMAGE_TEXT\"\ndatasets = \"set\"\n").is_err());

    let list = place.path().join("list.yaml");
    std::fs::write(&list, "IMAGE_TEXT:\n  MINE:\n    mimicit_path: set\n").unwrap();
    let config = DataConfig { mimicit_yaml: Some(list), ..DataConfig::default() };
    let set = config.resolved_sets().unwrap().remove(0);
    assert_eq!(
        (set.name.as_str(), set.images, set.train),
        ("MINE", Some(directory.clone()), Some(directory))
    );
}

/// Any bytes that a program may find in a shard: errors, never a panic.
#[test]
fn damaged_shards_are_errors_not_panics() {
    let place = tempfile::tempdir().unwrap();
    write(&example(300, 40), OutputForm::OtterDataset, place.path(), &WriterOptions::default());
    let mut manifest = Manifest::read(place.path()).unwrap();
    manifest.files.retain(|file| !file.name.ends_with(".index"));
    let mut random = otter_data::PythonRandom::new(5);
    for file in manifest.files.clone() {
        let path = place.path().join(&file.name);
        let original = std::fs::read(&path).unwrap();
        for round in 0..200 {
            let mut bytes = original.clone();
            for _ in 0..1 + round % 3 {
                let near = random.below(3000.min(bytes.len()));
                let at =
                    if random.below(2) == 0 { bytes.len() - 1 - near } else { random.below(bytes.len()) };
                bytes[at] = random.next_u32() as u8;
            }
            if round % 5 == 0 {
                bytes.truncate(random.below(bytes.len()));
            }
            std::fs::write(&path, &bytes).unwrap();
            let listed = manifest.files.iter_mut().find(|listed| listed.name == file.name).unwrap();
            listed.bytes = bytes.len() as u64;
            std::fs::write(place.path().join("manifest.json"), serde_json::to_vec(&manifest).unwrap())
                .unwrap();
            if let Ok(table) = InstructionTable::open(place.path()) {
                for entry in 0..table.len() {
                    let _ = (table.record(entry), table.id(entry));
                }
            }
            if let Ok(table) = ContextTable::open(place.path()) {
                for entry in 0..table.len() {
                    let _ = table.context(entry);
                }
            }
            if let Ok(table) = ImageTable::open(place.path(), 1 << 20) {
                for entry in 0..table.len() {
                    let _ = table.encoded_entry(entry);
                }
            }
        }
        std::fs::write(&path, &original).unwrap();
        manifest.files.iter_mut().find(|listed| listed.name == file.name).unwrap().bytes =
            original.len() as u64;
    }
}

fn sets() -> impl Strategy<Value = Set> {
    let id = "[a-zA-Z0-9_.äß -]{1,12}";
    let ids = || proptest::collection::vec(".{0,8}", 0..5);
    let record = (".*", ".*", ids(), ids()).prop_map(|(instruction, answer, image_ids, rel_ins_ids)| {
        Record { instruction, answer, image_ids, rel_ins_ids, ..Record::default() }
    });
    let records = proptest::collection::btree_map(".{0,10}", record, 1..30);
    let contexts = proptest::collection::btree_map(".{0,10}", ids(), 0..20);
    let bytes = proptest::collection::vec(any::<u8>(), 0..300);
    let images = proptest::collection::btree_map(id, bytes, 0..20);
    (records, contexts, images).prop_map(|(records, contexts, images)| Set {
        records: records.into_iter().collect(),
        contexts: contexts.into_iter().collect(),
        images,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn any_set_survives_every_form(mut set in sets(), shard in 1_u64..2000) {
        // Names that only differ in how the file system or an extension sees them are no matter of the format.
        set.images.retain(|id, _| !id.ends_with('.') && id != "." && id.trim() == id);
        for form in OutputForm::ALL {
            let place = tempfile::tempdir().unwrap();
            let options = WriterOptions { shard_bytes: Some(shard), ..WriterOptions::default() };
            write(&set, form, place.path(), &options);
            prop_assert_eq!(&read(form, place.path(), &set), &set, "{}", form);
        }
    }
}

/// Whatever byte of whatever file changes, `verify` says so, and nothing else is lost by it.
#[test]
fn a_changed_file_is_found_by_its_checksum() {
    let place = tempfile::tempdir().unwrap();
    let mut set = example(40, 0);
    set.records.iter_mut().for_each(|(_, record)| record.image_ids.clear());
    write(&set, OutputForm::OtterDataset, place.path(), &WriterOptions::default());
    let yaml = place.path().join("list.yaml");
    let text = format!("TEXT_ONLY:\n  SET:\n    mimicit_path: {}\n", place.path().display());
    std::fs::write(&yaml, text).unwrap();
    let config = DataConfig { mimicit_yaml: Some(yaml), ..DataConfig::default() };
    let found = |ids_only: bool| {
        let options = VerifyOptions { ids_only, ..VerifyOptions::default() };
        let report = verify(&config, None, &options, &mut |_| {}).unwrap();
        let changed = report.findings.iter().find(|finding| finding.reason == Reason::ChangedFile.name());
        changed.map(|finding| (finding.count, finding.examples[0].id.clone()))
    };
    assert_eq!(found(false), None);
    let manifest = Manifest::read(place.path()).unwrap();
    assert!(manifest.files.len() >= 4);
    for file in &manifest.files {
        let path = place.path().join(&file.name);
        let bytes = std::fs::read(&path).unwrap();
        // Near the end of a Parquet file is its footer, which names versions of writers: a change there opens all the same.
        let mut changed = bytes.clone();
        let at = bytes.len() - 20.min(bytes.len());
        changed[at] ^= 1;
        std::fs::write(&path, &changed).unwrap();
        let named = found(false).unwrap();
        assert_eq!((named.0, named.1 == file.name), (1, true), "{named:?}");
        assert_eq!(found(true), None, "--ids-only reads no bytes for their own sake");
        std::fs::write(&path, &bytes).unwrap();
    }
    assert_eq!(found(false), None);
}

//! Stages contents that stand elsewhere in the share: renames and copies move nothing over the
//! network.

use std::sync::Arc;

use highwater_core::{ContentHash, Key, Manifest};
use highwater_folder::{ContentFile, StageFile, read_content};

use super::{FetchError, Fetched, Ground, Staged};

/// One content to be copied.
#[derive(Debug)]
pub(crate) struct Copy {
    pub(crate) content: ContentHash,
    pub(crate) size: u64,
    /// Where it stands; `None` for the empty content.
    pub(crate) from: Option<Key>,
}

/// Copies that are reported together.
const REPORT_MAX: usize = 128;

/// Copies all of them and reports each.
pub(crate) async fn run(ground: Ground, copies: Vec<Copy>) {
    let mut copies = copies.into_iter().peekable();
    while copies.peek().is_some() {
        let some: Vec<Copy> = copies.by_ref().take(REPORT_MAX).collect();
        let disk = ground.clone();
        let copied = tokio::task::spawn_blocking(move || {
            some.into_iter().map(|copy| copy_one(&disk, &copy)).collect::<Vec<_>>()
        });
        match copied.await {
            // The share is gone: nobody is left to care.
            Ok(outcomes) => drop(ground.outcomes.send(outcomes).await),
            Err(panic) => tracing::error!(%panic, "copying within the share failed"),
        }
    }
}

fn copy_one(ground: &Ground, copy: &Copy) -> Fetched {
    let content = copy.content;
    match stage(ground, copy) {
        Ok(staged) => {
            ground.counters.content_bytes_reused.add(copy.size);
            Fetched::Staged(staged)
        }
        Err(why) => Fetched::Failed { content, why },
    }
}

fn stage(ground: &Ground, copy: &Copy) -> Result<Staged, FetchError> {
    let slot = ground.slots.next();
    let stage = ground.root.stage();
    let file = stage.create(&slot, copy.size)?;
    let copied = match &copy.from {
        None => Ok(None),
        Some(from) => ground
            .root
            .open_content(from)
            .map_err(|_| FetchError::SourceChanged(from.clone()))
            .and_then(|source| copy_verified(&source, from, &file, copy)),
    };
    match copied {
        // The manifest goes along: the one on record may go with the file that was copied from.
        Ok(manifest) => {
            let manifest = manifest.map(Arc::new);
            Ok(Staged { content: copy.content, slot, manifest, transfer: None })
        }
        Err(why) => {
            // A slot that is left behind is cleared away at the next start.
            let _ = stage.remove(&slot);
            Err(why)
        }
    }
}

/// Copies, and answers with the manifest of what is large enough to have one.
fn copy_verified(
    source: &ContentFile,
    from: &Key,
    file: &StageFile,
    copy: &Copy,
) -> Result<Option<Manifest>, FetchError> {
    file.copy_from(source, 0, 0, copy.size).map_err(|error| match error {
        highwater_folder::StageError::SourceShrunk(_) => FetchError::SourceChanged(from.clone()),
        other => other.into(),
    })?;
    match read_content(file.file(), copy.size) {
        Ok((found, manifest)) if found == copy.content => Ok(manifest),
        Ok(_) => Err(FetchError::SourceChanged(from.clone())),
        Err(error) => Err(FetchError::Local(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use highwater_core::{NodeId, SMALL_BYTES_MAX};
    use highwater_folder::{Marker, Root, Slot};

    use super::*;

    /// The file that was copied from may be edited at once, and its manifest goes with it: the copy
    /// could not be served to anybody.
    #[test]
    fn what_is_copied_within_a_share_brings_its_manifest_along() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (share, node) = ("docs".parse().expect("a name"), NodeId::from_bytes([1; 32]));
        let root = Root::create(dir.path(), &Marker { share, node, generation: 0 });
        let root = root.expect("a root");
        for (size, has_manifest) in [(SMALL_BYTES_MAX, false), (SMALL_BYTES_MAX + 1, true)] {
            let bytes = vec![7; size as usize];
            std::fs::write(dir.path().join("from"), &bytes).expect("written");
            let from: Key = "from".parse().expect("a key");
            let source = root.open_content(&from).expect("it is there");
            let file = root.stage().create(&Slot::fresh(size), size).expect("a stage");
            let content = ContentHash::of(&bytes);
            let copy = Copy { content, size, from: Some(from.clone()) };
            let manifest = copy_verified(&source, &from, &file, &copy).expect("copied");
            let of_what = manifest.map(|manifest| manifest.content());
            assert_eq!(of_what, has_manifest.then_some(content), "{size} bytes");
        }
    }
}

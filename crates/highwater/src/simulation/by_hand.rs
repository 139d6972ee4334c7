//! Stories told by hand, for what is drawn too rarely: the right thing at the right moment, and a disk
//! that dies at each step of it.

use highwater_store::FuseEnd;

use super::play;
use super::story::{Action, Deed, Habits, NAMES, Part, SECOND, Story, Topology};

/// Both nodes' users change things; whatever they write they sync.
const HABITS: Habits = Habits {
    nodes: 2,
    topology: Topology::Mesh,
    one_writer: false,
    careless: false,
    blind_percent: 0,
    latency_max: 2 * SECOND,
    mass_delete_min: 1000,
    folder_images: true,
};

fn name(path: &str) -> usize {
    NAMES.iter().position(|name| *name == path).expect("a path that users work on")
}

fn write(path: &str) -> Deed {
    Deed::Write { name: name(path), size: 3_000, in_place: false }
}

fn delete(path: &str) -> Deed {
    Deed::Delete { name: name(path) }
}

/// What was broken when a story was told.
fn violation(seed: u64, actions: &[(u64, Action)]) -> Option<String> {
    let actions = actions.iter().map(|(at, action)| (at * SECOND, action.clone())).collect();
    play(&Story { seed, habits: HABITS, actions }, false).violation
}

/// While one node's user deleted a directory, another's edited what lies in it: the edit wins, and the
/// directory is made again on its way, in the steps that are tried here. How late the directory's own news
/// comes is up to the seed.
#[test]
fn a_disk_that_dies_at_any_step_of_making_a_directory_on_the_way_loses_nothing() {
    for (seed, steps) in (30..46).flat_map(|seed| (5..18).map(move |steps| (seed, steps))) {
        let story = [
            (1, Action::User(0, write("d/x"))),
            (30, Action::Cut(0, 1)),
            (40, Action::User(1, delete("d"))),
            (41, Action::User(0, write("d/x"))),
            (60, Action::FailWithin(1, steps, FuseEnd::Dead)),
            (60, Action::Mend(0, 1)),
            (100, Action::Start(1)),
        ];
        assert_eq!(violation(seed, &story), None, "seed {seed}, dead after {steps} steps");
    }
}

/// The image of a disk has the same marker, made at the same time, as the folder had when it was taken:
/// the number in it alone tells that files came since.
#[test]
fn a_folders_image_from_the_same_run_deletes_nothing_when_it_is_put_back() {
    for end in [Action::Stop(1), Action::Kill(1)] {
        let story = [
            (1, Action::User(0, write("a"))),
            (30, Action::Backup(1)),
            (40, Action::User(0, write("b.txt"))),
            (400, end.clone()),
            (401, Action::Restore(1, Part::Folder)),
            (402, Action::Start(1)),
        ];
        assert_eq!(violation(0, &story), None, "{end:?}");
    }
}

//! What a peer announced becomes wanted, known, or a settled conflict; and what was put in place.

use highwater_core::log::Actor;
use highwater_core::merge::{Merge, Side, merge};
use highwater_core::{Entry, Key};
use highwater_folder::StatPrint;
use highwater_store::{EntryRow, StoreError, WantClass, WantRow};

use super::{Policy, Replica, decode_print};

/// Lost states that are told of. So many have one cause, and that is not looked for in a list.
const LOST_MAX: usize = 1000;

impl Replica {
    /// A peer has this state. It becomes wanted, or known, or settles a conflict.
    ///
    /// What is wanted is always a state as some peer has it. It is merged with what stands here
    /// only when it is put in place: nothing is claimed to be included before it is kept here or
    /// knowingly replaced, or whoever hears of the claim would replace the only bytes there are.
    pub(crate) fn take_in(
        &mut self,
        theirs: Entry,
        learned_from: Option<Actor>,
        policy: &dyn Policy,
    ) -> Result<(), StoreError> {
        let want = self.want(&theirs.key)?;
        let copy = match merge(want.as_ref().map(|(_, w)| &w.entry), &theirs) {
            Merge::Known => {
                if let (Some((class, want)), Some(from)) = (want, learned_from)
                    && want.entry == theirs
                {
                    self.claimed(class, theirs, from, policy);
                }
                return Ok(());
            }
            Merge::Take => None,
            Merge::Both(both) if both.winner == Side::Ours => {
                return self.take_in_copy(both.copy, policy);
            }
            Merge::Both(both) => both.copy,
        };
        if let Some((class, want)) = &want {
            self.unwant(*class, &want.entry);
        }
        self.against_index(theirs, learned_from, policy)?;
        self.take_in_copy(copy, policy)
    }

    /// A peer says that it has exactly what is wanted. It may have been given up because nobody had
    /// it, and its other claimants may have lost it.
    fn claimed(&mut self, class: WantClass, want: Entry, from: Actor, policy: &dyn Policy) {
        self.unwant(class, &want);
        match class {
            WantClass::Held => self.put_incoming(want, Some(from), policy),
            _ => self.record_want(class, want, Some(from)),
        }
    }

    pub(super) fn take_in_copy(
        &mut self,
        copy: Option<Entry>,
        policy: &dyn Policy,
    ) -> Result<(), StoreError> {
        copy.map_or(Ok(()), |copy| self.take_in(copy, None, policy))
    }

    fn against_index(
        &mut self,
        incoming: Entry,
        learned_from: Option<Actor>,
        policy: &dyn Policy,
    ) -> Result<(), StoreError> {
        let row = self.entry(&incoming.key)?;
        let stands = match &row {
            Some(row) => row.entry.kind == incoming.kind,
            None => !incoming.kind.is_live(),
        };
        let print = row.as_ref().and_then(|row| decode_print(row.print.as_deref()));
        match merge(row.as_ref().map(|r| &r.entry), &incoming) {
            Merge::Known => Ok(()),
            Merge::Take if stands => self.append(incoming, print.as_ref(), learned_from, row),
            Merge::Take => {
                self.put_incoming(incoming, learned_from, policy);
                Ok(())
            }
            Merge::Both(both) => {
                match both.winner {
                    Side::Theirs if !stands => self.put_incoming(incoming, learned_from, policy),
                    // Whoever announced what lost may have forgotten what wins: while he wanted it,
                    // something else took its place. So it is said again, as it is.
                    Side::Ours if both.copy.is_some() => self.say_again(row)?,
                    _ => self.append(both.merged, print.as_ref(), None, row)?,
                }
                self.take_in_copy(both.copy, policy)
            }
        }
    }

    /// Moves a row to the head of the log as it stands, so that every peer hears of it.
    fn say_again(&mut self, row: Option<EntryRow>) -> Result<(), StoreError> {
        let Some(row) = row else { return Ok(()) };
        let print = decode_print(row.print.as_deref());
        self.append(row.entry.clone(), print.as_ref(), None, Some(row))
    }

    fn put_incoming(&mut self, entry: Entry, learned_from: Option<Actor>, policy: &dyn Policy) {
        let held = policy.keeps_out(&entry);
        let class = if held { WantClass::Held } else { WantClass::of(&entry) };
        self.put_want(class, entry, learned_from);
    }

    /// A wanted state now stands under its key.
    pub(crate) fn applied(
        &mut self,
        want: &WantRow,
        print: Option<&StatPrint>,
    ) -> Result<(), StoreError> {
        let row = self.entry(&want.entry.key)?;
        if let Some((class, current)) = self.want(&want.entry.key)?
            && current.entry == want.entry
        {
            self.unwant(class, &want.entry);
        }
        self.append_wanted(want.clone(), print, row)
    }

    /// A wanted state stands under its key, and includes from now on what stood there before.
    pub(super) fn append_wanted(
        &mut self,
        want: WantRow,
        print: Option<&StatPrint>,
        row: Option<EntryRow>,
    ) -> Result<(), StoreError> {
        let before = row.as_ref().map(|row| &row.entry.version);
        let (version, learned_from) = match before {
            Some(before) if !want.entry.version.includes(before) => {
                (want.entry.version.join(before), None)
            }
            _ => (want.entry.version, want.learned_from),
        };
        self.append(Entry { version, ..want.entry }, print, learned_from, row)
    }

    /// A wanted state moves between what is to be done and what policy holds.
    pub(crate) fn reclassify(&mut self, class: WantClass, want: WantRow, to: WantClass) {
        self.unwant(class, &want.entry);
        self.put_want(to, want.entry, want.learned_from);
    }

    /// Holds what cannot be had, until [`Replica::want_again`].
    pub(crate) fn hold(&mut self, key: &Key) -> Result<(), StoreError> {
        if let Some((WantClass::Live, want)) = self.want(key)? {
            self.unwant(WantClass::Live, &want.entry);
            self.record_want(WantClass::Held, want.entry, want.learned_from);
        }
        Ok(())
    }

    /// A state that nobody has any more is not wanted any longer, and told to people.
    pub(crate) fn give_up(&mut self, key: &Key) -> Result<(), StoreError> {
        if let Some((class, want)) = self.want(key)? {
            self.unwant(class, &want.entry);
            if self.lost.len() < LOST_MAX {
                self.lost.insert(want.entry.key, want.entry.stamp);
            }
        }
        Ok(())
    }

    /// Wants again what was held, unless policy holds it.
    pub(crate) fn want_again(&mut self, key: &Key, policy: &dyn Policy) -> Result<(), StoreError> {
        if let Some((WantClass::Held, want)) = self.want(key)?
            && !policy.keeps_out(&want.entry)
        {
            self.unwant(WantClass::Held, &want.entry);
            self.record_want(WantClass::Live, want.entry, want.learned_from);
        }
        Ok(())
    }
}

//! The names under the mount: directories, links and files, all in memory.
//!
//! A node lives as long as it has a name or the kernel remembers it; so a file that was unlinked while open stays
//! readable, as Postgres expects.

use std::collections::BTreeMap;
use std::path::PathBuf;

use runtime::clock;
use runtime::collections::HashMap;

use crate::error::Error;
use crate::file::File;
use crate::fuse::{Attributes, Errno, ROOT};
use crate::limits::NODES_MAX;

const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const LINK: u32 = 0o120_000;
const PERMISSIONS: u32 = 0o7777;

/// Everything under the mount. All of it belongs to one user.
#[derive(Debug)]
pub struct Tree {
    nodes: HashMap<u64, Node>,
    next: u64,
    uid: u32,
    gid: u32,
    takes_links: bool,
}

#[derive(Debug)]
struct Node {
    parent: u64,
    /// Whether it has a name.
    linked: bool,
    /// Answers about it that the kernel has not forgotten.
    lookups: u64,
    permissions: u32,
    /// Microseconds since 1970.
    modified: i64,
    kind: Kind,
}

/// What a node is.
#[derive(Debug)]
pub enum Kind {
    Directory(BTreeMap<Vec<u8>, u64>),
    Link(Vec<u8>),
    File(File),
}

/// An entry of a directory's listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub node: u64,
    pub mode: u32,
    pub name: Vec<u8>,
}

impl Tree {
    #[must_use]
    pub fn new(uid: u32, gid: u32) -> Tree {
        let mut tree =
            Tree { nodes: HashMap::default(), next: ROOT + 1, uid, gid, takes_links: true };
        let kind = Kind::Directory(BTreeMap::new());
        tree.nodes.insert(ROOT, Node::new(ROOT, 0o700, kind));
        tree
    }

    /// From now on no links are made. A replica that replays `CREATE TABLESPACE` would make one to the directory of the
    /// server that it follows, and write there.
    pub fn refuse_links(&mut self) {
        self.takes_links = false;
    }

    /// Adds what is at `path` (relative, with slashes) and the directories above it.
    ///
    /// # Errors
    /// When there are too many files. A name that is taken keeps its first owner.
    pub fn add(&mut self, path: &str, kind: Kind) -> Result<(), Error> {
        let mut parent = ROOT;
        let (above, name) = path.rsplit_once('/').unwrap_or(("", path));
        for part in above.split('/').filter(|part| !part.is_empty()) {
            parent = match self.child(parent, part.as_bytes()) {
                Some(node) => node,
                None => self.attach(parent, part.as_bytes(), 0o700, new_directory())?,
            };
        }
        if self.child(parent, name.as_bytes()).is_none() {
            let permissions = if matches!(kind, Kind::Directory(_)) { 0o700 } else { 0o600 };
            self.attach(parent, name.as_bytes(), permissions, kind)?;
        }
        Ok(())
    }

    /// The file at `path` (relative, with slashes), if there is one.
    #[must_use]
    pub fn find(&self, path: &str) -> Option<&File> {
        let mut node = ROOT;
        for name in path.split('/') {
            node = self.child(node, name.as_bytes())?;
        }
        self.file(node).ok()
    }

    /// The files below the directory at `path`, with their paths from the root.
    #[must_use]
    pub fn files_below(&self, path: &str) -> Vec<(String, &File)> {
        let mut node = ROOT;
        for name in path.split('/') {
            match self.child(node, name.as_bytes()) {
                Some(child) => node = child,
                None => return Vec::new(),
            }
        }
        let mut found = Vec::new();
        let mut open = vec![(path.to_owned(), node)];
        while let Some((path, node)) = open.pop() {
            match self.nodes.get(&node).map(|node| &node.kind) {
                Some(Kind::Directory(children)) => {
                    open.extend(children.iter().map(|(name, &node)| {
                        (format!("{path}/{}", String::from_utf8_lossy(name)), node)
                    }))
                }
                Some(Kind::File(file)) => found.push((path, file)),
                Some(Kind::Link(_)) | None => {}
            }
        }
        found
    }

    fn attach(
        &mut self,
        parent: u64,
        name: &[u8],
        permissions: u32,
        kind: Kind,
    ) -> Result<u64, Error> {
        if self.nodes.len() >= NODES_MAX {
            return Err(Error::TooManyFiles { limit: NODES_MAX });
        }
        let node = self.next;
        self.next += 1;
        self.nodes.insert(node, Node::new(parent, permissions, kind));
        if let Some(Kind::Directory(children)) = self.kind_mut(parent) {
            children.insert(name.to_owned(), node);
        }
        Ok(node)
    }

    fn child(&self, parent: u64, name: &[u8]) -> Option<u64> {
        match &self.nodes.get(&parent)?.kind {
            Kind::Directory(children) => children.get(name).copied(),
            _ => None,
        }
    }

    fn kind_mut(&mut self, node: u64) -> Option<&mut Kind> {
        self.nodes.get_mut(&node).map(|node| &mut node.kind)
    }

    fn children(&self, node: u64) -> Result<&BTreeMap<Vec<u8>, u64>, Errno> {
        match &self.nodes.get(&node).ok_or(Errno::Stale)?.kind {
            Kind::Directory(children) => Ok(children),
            _ => Err(Errno::NotDirectory),
        }
    }

    fn children_mut(&mut self, node: u64) -> Result<&mut BTreeMap<Vec<u8>, u64>, Errno> {
        match self.kind_mut(node).ok_or(Errno::Stale)? {
            Kind::Directory(children) => Ok(children),
            _ => Err(Errno::NotDirectory),
        }
    }

    /// The node of a name, which the kernel will remember.
    ///
    /// # Errors
    /// All of them: as the system call that led here has them.
    pub fn look_up(&mut self, parent: u64, name: &[u8]) -> Result<Attributes, Errno> {
        let node = self.children(parent)?.get(name).copied().ok_or(Errno::NoEntry)?;
        self.remember(node)
    }

    fn remember(&mut self, node: u64) -> Result<Attributes, Errno> {
        self.nodes.get_mut(&node).ok_or(Errno::Stale)?.lookups += 1;
        self.attributes(node)
    }

    pub fn attributes(&self, number: u64) -> Result<Attributes, Errno> {
        let node = self.nodes.get(&number).ok_or(Errno::Stale)?;
        let size = match &node.kind {
            Kind::Directory(_) => 4096,
            Kind::Link(target) => target.len() as u64,
            Kind::File(file) => file.size,
        };
        Ok(Attributes {
            node: number,
            size,
            mode: node.mode(),
            links: u32::from(node.linked),
            uid: self.uid,
            gid: self.gid,
            modified: node.modified,
        })
    }

    pub fn set_permissions(&mut self, node: u64, permissions: u32) -> Result<(), Errno> {
        let node = self.nodes.get_mut(&node).ok_or(Errno::Stale)?;
        node.permissions = permissions & PERMISSIONS;
        Ok(())
    }

    pub fn file(&self, node: u64) -> Result<&File, Errno> {
        match &self.nodes.get(&node).ok_or(Errno::Stale)?.kind {
            Kind::File(file) => Ok(file),
            Kind::Directory(_) => Err(Errno::IsDirectory),
            Kind::Link(_) => Err(Errno::Invalid),
        }
    }

    /// The file, to be changed now.
    pub fn file_mut(&mut self, node: u64) -> Result<&mut File, Errno> {
        let node = self.nodes.get_mut(&node).ok_or(Errno::Stale)?;
        node.modified = clock::wall_micros();
        match &mut node.kind {
            Kind::File(file) => Ok(file),
            Kind::Directory(_) => Err(Errno::IsDirectory),
            Kind::Link(_) => Err(Errno::Invalid),
        }
    }

    pub fn link_target(&self, node: u64) -> Result<&[u8], Errno> {
        match &self.nodes.get(&node).ok_or(Errno::Stale)?.kind {
            Kind::Link(target) => Ok(target),
            _ => Err(Errno::Invalid),
        }
    }

    pub fn list(&self, node: u64) -> Result<Vec<Entry>, Errno> {
        let entry = |(name, &node): (&Vec<u8>, &u64)| {
            let mode = self.nodes.get(&node)?.mode();
            Some(Entry { node, mode, name: name.clone() })
        };
        let parent = self.nodes.get(&node).map_or(ROOT, |node| node.parent);
        let dots = [(node, &b"."[..]), (parent, &b".."[..])];
        let dots = dots.map(|(node, name)| Entry { node, mode: DIRECTORY, name: name.to_owned() });
        let children = self.children(node)?.iter().filter_map(entry);
        Ok(dots.into_iter().chain(children).collect())
    }

    /// Makes a node under a name that is free.
    pub fn make(
        &mut self,
        parent: u64,
        name: &[u8],
        permissions: u32,
        kind: Kind,
    ) -> Result<Attributes, Errno> {
        if self.children(parent)?.contains_key(name) {
            return Err(Errno::Exists);
        }
        if matches!(kind, Kind::Link(_)) && !self.takes_links {
            return Err(Errno::NotPermitted);
        }
        let made = self.attach(parent, name, permissions & PERMISSIONS, kind);
        let node = made.map_err(|_too_many| Errno::NoSpace)?;
        self.touch(parent);
        self.remember(node)
    }

    /// Number that the next node will have: the name of its local file.
    #[must_use]
    pub fn next_node(&self) -> u64 {
        self.next
    }

    /// Takes a file's or link's name away.
    pub fn unlink(&mut self, parent: u64, name: &[u8]) -> Result<Option<PathBuf>, Errno> {
        let node = *self.children(parent)?.get(name).ok_or(Errno::NoEntry)?;
        if matches!(self.kind_mut(node), Some(Kind::Directory(_))) {
            return Err(Errno::IsDirectory);
        }
        self.children_mut(parent)?.remove(name);
        self.touch(parent);
        Ok(self.unlinked(node))
    }

    pub fn remove_directory(&mut self, parent: u64, name: &[u8]) -> Result<(), Errno> {
        let node = *self.children(parent)?.get(name).ok_or(Errno::NoEntry)?;
        if !self.children(node)?.is_empty() {
            return Err(Errno::NotEmpty);
        }
        self.children_mut(parent)?.remove(name);
        self.touch(parent);
        self.unlinked(node);
        Ok(())
    }

    /// Gives a node another name; what had that name before loses it.
    pub fn rename(
        &mut self,
        (parent, name): (u64, &[u8]),
        (new_parent, new_name): (u64, &[u8]),
    ) -> Result<Option<PathBuf>, Errno> {
        let node = *self.children(parent)?.get(name).ok_or(Errno::NoEntry)?;
        let replaced = self.children(new_parent)?.get(new_name).copied();
        if replaced == Some(node) {
            return Ok(None);
        }
        let is_directory = |tree: &Tree, node: u64| tree.children(node).is_ok();
        if let Some(replaced) = replaced {
            match (is_directory(self, node), is_directory(self, replaced)) {
                (true, false) => return Err(Errno::NotDirectory),
                (false, true) => return Err(Errno::IsDirectory),
                (true, true) if !self.children(replaced)?.is_empty() => {
                    return Err(Errno::NotEmpty);
                }
                _ => {}
            }
        }
        self.children_mut(parent)?.remove(name);
        self.children_mut(new_parent)?.insert(new_name.to_owned(), node);
        if let Some(node) = self.nodes.get_mut(&node) {
            node.parent = new_parent;
        }
        self.touch(parent);
        self.touch(new_parent);
        Ok(replaced.and_then(|replaced| self.unlinked(replaced)))
    }

    /// The kernel forgets so many answers about a node. Answers the local file that nobody needs any more.
    pub fn forget(&mut self, number: u64, lookups: u64) -> Option<PathBuf> {
        let node = self.nodes.get_mut(&number)?;
        node.lookups = node.lookups.saturating_sub(lookups);
        self.drop_unneeded(number)
    }

    fn unlinked(&mut self, number: u64) -> Option<PathBuf> {
        self.nodes.get_mut(&number)?.linked = false;
        self.drop_unneeded(number)
    }

    fn drop_unneeded(&mut self, number: u64) -> Option<PathBuf> {
        let node = self.nodes.get(&number)?;
        if node.linked || node.lookups > 0 || number == ROOT {
            return None;
        }
        match self.nodes.remove(&number)?.kind {
            Kind::File(file) => Some(file.local),
            _ => None,
        }
    }

    fn touch(&mut self, node: u64) {
        if let Some(node) = self.nodes.get_mut(&node) {
            node.modified = clock::wall_micros();
        }
    }
}

impl Node {
    fn new(parent: u64, permissions: u32, kind: Kind) -> Node {
        let modified = clock::wall_micros();
        Node { parent, linked: true, lookups: 0, permissions, modified, kind }
    }

    fn mode(&self) -> u32 {
        let kind = match self.kind {
            Kind::Directory(_) => DIRECTORY,
            Kind::Link(_) => LINK,
            Kind::File(_) => REGULAR,
        };
        kind | self.permissions
    }
}

/// An empty directory.
#[must_use]
pub fn new_directory() -> Kind {
    Kind::Directory(BTreeMap::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str) -> Kind {
        Kind::File(File::local(PathBuf::from(name), 0))
    }

    fn tree(paths: &[&str]) -> Tree {
        let mut tree = Tree::new(26, 26);
        for path in paths {
            tree.add(path, file(path)).expect("few files");
        }
        tree
    }

    fn names(tree: &Tree, node: u64) -> Vec<String> {
        let list = tree.list(node).expect("a directory");
        list.into_iter().map(|entry| String::from_utf8_lossy(&entry.name).into_owned()).collect()
    }

    #[test]
    fn paths_bring_their_directories() {
        let mut tree = tree(&["PG_VERSION", "base/1/1259", "base/5/1259", "base/5/1259_vm"]);
        assert_eq!(names(&tree, ROOT), [".", "..", "PG_VERSION", "base"]);
        let base = tree.look_up(ROOT, b"base").expect("it is there");
        assert_eq!((base.mode, base.uid), (0o040_700, 26));
        let five = tree.look_up(base.node, b"5").expect("it is there");
        assert_eq!(names(&tree, five.node), [".", "..", "1259", "1259_vm"]);
        assert_eq!(tree.look_up(ROOT, b"none"), Err(Errno::NoEntry));
    }

    #[test]
    fn files_are_found_however_deep_they_are() {
        let tree = tree(&["PG_VERSION", "pg_replslot/a/state", "pg_replslot/b/state", "base/1/2"]);
        let below = |path| {
            let mut paths: Vec<_> =
                tree.files_below(path).into_iter().map(|(path, _file)| path).collect();
            paths.sort();
            paths
        };
        assert_eq!(below("pg_replslot"), ["pg_replslot/a/state", "pg_replslot/b/state"]);
        assert_eq!(below("pg_replslot/a"), ["pg_replslot/a/state"]);
        assert_eq!(below("pg_stat"), Vec::<String>::new());
    }

    #[test]
    fn an_unlinked_file_stays_until_the_kernel_forgets_it() {
        let mut tree = tree(&["a"]);
        let node = tree.look_up(ROOT, b"a").expect("it is there").node;
        assert_eq!(tree.unlink(ROOT, b"a"), Ok(None));
        assert_eq!(tree.look_up(ROOT, b"a"), Err(Errno::NoEntry));
        assert!(tree.file(node).is_ok(), "it is open");
        assert_eq!(tree.forget(node, 1), Some(PathBuf::from("a")));
        assert_eq!(tree.file(node).err(), Some(Errno::Stale));
    }

    #[test]
    fn a_rename_replaces_as_the_system_call_does() {
        let mut tree = tree(&["a", "b", "full/c", "empty/d"]);
        let empty = tree.look_up(ROOT, b"empty").expect("it is there").node;
        tree.unlink(empty, b"d").expect("it is there");
        assert_eq!(tree.rename((ROOT, b"a"), (ROOT, b"b")), Ok(Some(PathBuf::from("b"))));
        assert_eq!(tree.rename((ROOT, b"b"), (ROOT, b"full")), Err(Errno::IsDirectory));
        assert_eq!(tree.rename((ROOT, b"full"), (ROOT, b"b")), Err(Errno::NotDirectory));
        assert_eq!(tree.rename((ROOT, b"empty"), (ROOT, b"full")), Err(Errno::NotEmpty));
        assert_eq!(tree.rename((ROOT, b"b"), (empty, b"e")), Ok(None));
        assert_eq!(names(&tree, empty), [".", "..", "e"]);
        assert_eq!(tree.remove_directory(ROOT, b"empty"), Err(Errno::NotEmpty));
    }

    #[test]
    fn a_name_is_made_once() {
        let mut tree = tree(&["a"]);
        assert_eq!(tree.make(ROOT, b"a", 0o600, file("x")).err(), Some(Errno::Exists));
        let made = tree.make(ROOT, b"b", 0o640, file("x")).expect("the name is free");
        assert_eq!(made.mode, 0o100_640);
    }
}

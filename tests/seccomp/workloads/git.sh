# A repository: made, changed, merged, packed, cloned.
set -x
export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b
mkdir r
cd r
git init
for i in $(seq 50)
do echo $i > f$i
done
git add .
git commit -m one
git checkout -b x
echo y > f1
git commit -am two
git checkout -
git merge x
git log --stat
git diff HEAD~1
git gc
git fsck
git clone . ../r2
git -C ../r2 pull
git stash
git blame f1
git grep 1
git tag v1
git worktree add ../r3
git bundle create ../b HEAD
git archive HEAD | tar t
git rebase -f HEAD~1
git status
git rev-list --all --objects
git repack -ad
git bisect start
git show
git format-patch -1
git apply --check 0001*
git daemon --help
git maintenance run
git submodule status
git fsmonitor--daemon status
git am --show-current-patch
git notes add -m x
git cherry-pick x
git push ../r2 HEAD:refs/heads/z

"""What the controllers of Deployment, StatefulSet and LeaderWorkerSet do with pods: keep so many of them, and replace
them one after the other when the template changes."""

import json


def revision(template):
    return json.dumps(template, sort_keys=True)


class Workload:
    """step() does what can be done now; it is called again and again by one thread."""

    def __init__(self, cluster, document):
        self.cluster, self.pods = cluster, []
        self.update(document)

    def update(self, document):
        self.document, self.spec = document, document["spec"]
        self.name, self.replicas = document["metadata"]["name"], document["spec"].get("replicas", 1)
        self.min_ready = self.spec.get("minReadySeconds", 0)

    def step(self):
        self.pods = [pod for pod in self.pods if not pod.gone.is_set()]
        self.reconcile()

    def create(self, name, template, **options):
        self.pods.append(self.cluster.create_pod(name, template, **options))
        self.pods[-1].revision = revision(template)
        return self.pods[-1]

    def available(self):
        return [pod for pod in self.pods if pod.available(self.min_ready)]

    def done(self):
        """Every pod is a new one, and ready for long enough; nothing of the old is left."""
        return len(self.pods) == self.size() == len(self.available()) and not self.old()

    def size(self):
        return self.replicas

    def old(self):
        current = revision(self.template())
        return [pod for pod in self.pods if pod.revision != current]

    def template(self):
        return self.spec["template"]


class Deployment(Workload):
    """rollingUpdate with whole numbers."""

    def reconcile(self):
        rolling = self.spec["strategy"]["rollingUpdate"]
        live = [pod for pod in self.pods if not pod.deleting.is_set()]
        old = [pod for pod in live if pod in self.old()]
        new = len(live) - len(old)
        for _ in range(min(self.replicas - new, self.replicas + rolling["maxSurge"] - len(live))):
            self.create(f"{self.name}-{self.cluster.unique()}", self.template())
        spare = len([p for p in live if p in self.available()]) - (self.replicas - rolling["maxUnavailable"])
        for pod in sorted(old, key=lambda p: p.ready):
            if not pod.ready:
                pod.delete()
            elif spare > 0:
                pod.delete()
                spare -= 1
        for pod in live[self.replicas + rolling["maxSurge"]:]:
            pod.delete()


class StatefulSet(Workload):
    """podManagementPolicy Parallel: all begin at once, and are updated from the last to the first."""

    def reconcile(self):
        assert self.spec["podManagementPolicy"] == "Parallel" and "updateStrategy" not in self.spec
        by_name = {pod.name: pod for pod in self.pods}
        names = [f"{self.name}-{number}" for number in range(self.replicas)]
        for name in names:
            if name not in by_name:
                self.create(name, self.template())
        for name in reversed(names):
            pod = by_name.get(name)
            if pod is None or pod.deleting.is_set():
                return
            if pod in self.old():
                pod.delete()
                return
            if not pod.available(self.min_ready):
                return


class LeaderWorkerSet(Workload):
    """Groups of a leader and its workers, which come and go together."""

    def reconcile(self):
        group = self.spec["leaderWorkerTemplate"]
        rolling = self.spec["rolloutStrategy"]["rollingUpdateConfiguration"]
        assert group["restartPolicy"] == "RecreateGroupOnPodRestart" and rolling == {"maxUnavailable": 1, "maxSurge": 0}
        groups = {number: [p for p in self.pods if p.group == number] for number in range(self.replicas)}
        for number, pods in groups.items():
            if not pods:
                self._create_group(number, group)
            elif any(p.restarts or p.deleting.is_set() for p in pods):
                self._delete(pods)
        for number in reversed(range(self.replicas)):
            pods = [p for p in self.pods if p.group == number]
            if any(p.deleting.is_set() for p in pods):
                return
            if any(p in self.old() for p in pods):
                return self._delete(pods)
            if not all(p.ready for p in pods):
                return

    def _delete(self, pods):
        for pod in pods:
            pod.delete()

    def _create_group(self, number, group):
        leader = None
        for index in range(group["size"]):
            template = group["workerTemplate"] if index else group["leaderTemplate"]
            name = f"{self.name}-{number}" + (f"-{index}" if index else "")
            # The name of the leader's pod would be found by the system's resolver, which is not ours.
            address = leader.ip if leader else None
            pod = self.create(name, template, extra_env=lambda ip: {
                "LWS_LEADER_ADDRESS": address or ip, "LWS_GROUP_SIZE": str(group["size"]), "LWS_WORKER_INDEX": str(index)})
            pod.group = number
            leader = leader or pod

    def size(self):
        return self.replicas * self.spec["leaderWorkerTemplate"]["size"]

    def old(self):
        group = self.spec["leaderWorkerTemplate"]
        current = {revision(group["leaderTemplate"]), revision(group["workerTemplate"])}
        return [pod for pod in self.pods if pod.revision not in current]


KINDS = {kind.__name__: kind for kind in (Deployment, StatefulSet, LeaderWorkerSet)}

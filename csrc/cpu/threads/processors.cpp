#include "processors.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <sstream>
#include <thread>

#if defined(__linux__)
#include <sched.h>
#endif

namespace tokenprune::cpu {
namespace {

int rounded_up(double quota, double period) {
  return quota > 0 && period > 0 ? std::max(1, static_cast<int>(std::ceil(quota / period))) : 0;
}

// Version 2: one file holds "QUOTA PERIOD", or "max PERIOD".
int limit_of_unified_group(const std::string& folder) {
  std::ifstream file(folder + "/cpu.max");
  double quota = 0, period = 0;
  return file >> quota >> period ? rounded_up(quota, period) : 0;
}

// Version 1: two files. The quota is -1 where there is no limit.
int limit_of_cpu_group(const std::string& folder) {
  std::ifstream quota_file(folder + "/cpu.cfs_quota_us"), period_file(folder + "/cpu.cfs_period_us");
  double quota = 0, period = 0;
  return quota_file >> quota && period_file >> period ? rounded_up(quota, period) : 0;
}

// The smallest limit of a group and the groups around it. `path` begins with "/".
template <class LimitOf>
int smallest_limit(const std::string& mount, std::string path, const LimitOf& limit_of) {
  int smallest = 0;
  for (;;) {
    const int limit = limit_of(mount + (path == "/" ? "" : path));
    if (limit > 0) smallest = smallest == 0 ? limit : std::min(smallest, limit);
    if (path.empty() || path == "/") return smallest;
    path.erase(path.rfind('/'));
  }
}

bool lists_cpu(const std::string& controllers) {
  std::istringstream names(controllers);
  for (std::string name; std::getline(names, name, ',');)
    if (name == "cpu") return true;
  return false;
}

}  // namespace

int control_group_limit(const std::string& root) {
  int smallest = 0;
  std::ifstream groups(root + "/proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {  // HIERARCHY:CONTROLLERS:PATH
    const auto first = line.find(':'), second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1), path = line.substr(second + 1);
    const std::string mount = root + "/sys/fs/cgroup";
    int limit = 0;
    if (controllers.empty())
      limit = smallest_limit(mount, path, limit_of_unified_group);
    else if (lists_cpu(controllers))
      limit = smallest_limit(mount + "/" + controllers, path, limit_of_cpu_group);
    if (limit > 0) smallest = smallest == 0 ? limit : std::min(smallest, limit);
  }
  return smallest;
}

int available_processors() {
  int count = 0;
#if defined(__linux__)
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof allowed, &allowed) == 0) count = CPU_COUNT(&allowed);
#endif
  if (count == 0) count = static_cast<int>(std::thread::hardware_concurrency());
  static const int limit = control_group_limit("");
  if (limit > 0) count = std::min(count, limit);
  return std::max(1, count);
}

}  // namespace tokenprune::cpu

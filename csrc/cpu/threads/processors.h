// How many processors this process may use at a time.
#pragma once

#include <string>

namespace tokenprune::cpu {

// The processors that the calling thread may run on, or fewer if a control group limits the process to less time. At
// least 1. The limit of the control group is read once.
int available_processors();

// The processors' worth of time that control groups allow, rounded up; 0 if they set no limit. `root` stands for "/".
int control_group_limit(const std::string& root);

}  // namespace tokenprune::cpu

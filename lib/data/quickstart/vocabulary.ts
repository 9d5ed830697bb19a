/** The vocabulary of the instructions. */
const words = (text: string) => text.trim().split(/\s+/)
const pairs = (text: string) =>
  text
    .trim()
    .split(/\s*;\s*/)
    .map((pair) => pair.split(/\s*:\s*/) as [string, string])

/** For the skills that work on letters. */
export const SHORT_WORDS = words(`
  able acorn acid actor adult agent alarm album alley amber angel anger ankle apple april apron arch arena army arrow
  atlas attic audio aunt award axle bacon badge baker bamboo banjo banner barn basin basket beach beacon beard beast
  bell belt bench berry bird blade blank blaze block bloom board boat bonus border bottle bowl brain brake branch brave
  bread brick bridge brook broom brush bucket buggy bundle butter button cabin cable cactus camel camera canal candle
  canoe canvas carbon cargo carpet castle cave cedar cellar chain chalk charm cheek cherry chess child chin circle
  city claw clay cliff clock cloud clover coal coast coat cobra comet copper coral corner cotton couch cousin cradle
  crane crayon cream creek crown crumb cube curve dairy daisy dance dawn deck delta desert desk dew diary dinner dish
  dock dollar dome donkey door dove dragon drain dream drum dune dust eagle earth east echo edge elbow elder ember
  engine equal event fable fabric falcon farm feast fence fern ferry fiddle field finger flag flame flask flint float
  flour flute foam forest fork fossil frame frost fruit funnel galaxy garden garlic gate giant ginger glass glove
  goblet gold grain grape grass gravel guitar hammer harbor harp hazel heart hedge helmet herb heron hill hinge honey
  hoof horn hotel hour ice inch ink iron island ivory jacket jar jewel jungle kettle kite knee knot ladder lagoon lake
  lamp lantern lark laser lawn leaf lemon lens lever lily linen lion lizard lobby locket lodge lotus lunch magnet maple
  marble market mask meadow medal melon metal mill mint mirror mist monkey moss motor mouse museum music napkin nectar
  needle nest night noble north nurse oak oasis oboe ocean olive onion opera orbit orchid otter oven oyster paddle
  palace panda paper park parrot pasta patch pearl pebble pedal pencil pepper piano pilot pine planet plum pocket poem
  pond pony poppy potato prism puzzle quartz queen quilt quiz rabbit radio rain ranch raven record ribbon ridge ring
  river robin rocket rope rose ruby saddle sail salad salt sand satin scarf school seal seed shadow shell shelf ship
  shore shovel silk silver singer skirt slope smoke snail snow socket sofa spark spice spider spoon spring square
  stable stage star statue stone storm story straw stream sugar summer sunset swamp swan table tailor teapot temple
  tent thorn thumb ticket tiger timber toast tomato torch towel tower trail train tray tulip tunnel turtle umpire
  uncle valley velvet violin voice wagon walnut water wax whale wheat wheel willow window winter wizard wolf wool
  yacht yard yarn zebra zipper`)

/** Nouns with a regular plural. */
export const NOUNS = words(`
  apple bag ball banana bank basket bee bell bird boat book bottle bowl boy brush bus cake camera candle car card cat
  chair church city class clock cloud coat coin country cow cup desk dish dog door dress duck ear egg eye farm finger
  flag flower fly fork fox friend frog game garden gate girl glass goat hand hat hill horse house island jacket key king
  kite lady lake lamp leg lemon letter lion lunch map match monkey moon mountain nail nest night nose ocean orange
  party peach pen pencil picture pig plate pocket pony puppy queen rabbit river road rock roof room rope rose school
  ship shirt shoe shop spoon star stone story street table teacher tiger torch town toy train tree truck wall watch
  window wing witch word worker baby berry box branch beach bench brother sister daughter doctor driver farmer
  fence field forest lesson machine magnet market minute mirror needle number office page painter parrot path patch
  planet potato pot prize question ring robot sandwich seed shell singer sock song spider square stamp station storm
  student suitcase summer sweater task tail ticket tower tent valley village violin wagon wheel wish winter year`)

export const CATEGORIES: Record<string, string[]> = {
  animal: words('horse tiger rabbit eagle snake frog camel whale wolf goat duck zebra'),
  fruit: words('apple banana cherry grape lemon mango melon kiwi pear fig papaya apricot'),
  color: words('red blue green yellow purple brown black white gray pink'),
  tool: words('hammer saw drill shovel wrench axe rake ladder'),
  vehicle: words('car bus train truck boat bicycle ship tractor'),
  job: words('doctor teacher farmer baker pilot nurse painter lawyer'),
}

export const OPPOSITES = pairs(`
  hot:cold; big:small; up:down; day:night; early:late; fast:slow; full:empty; happy:sad; hard:soft; heavy:light;
  high:low; left:right; long:short; loud:quiet; new:old; open:closed; rich:poor; strong:weak; sweet:bitter;
  thick:thin; true:false; wet:dry; wide:narrow; clean:dirty; deep:shallow; inside:outside; first:last;
  love:hate; sharp:blunt; win:lose; near:far; above:below; begin:end; buy:sell; front:back; north:south; east:west;
  rough:smooth; safe:dangerous`)

export const CAPITALS = pairs(`
  France:Paris; Italy:Rome; Spain:Madrid; Germany:Berlin; Austria:Vienna; Portugal:Lisbon; Greece:Athens; Norway:Oslo;
  Sweden:Stockholm; Finland:Helsinki; Denmark:Copenhagen; Poland:Warsaw; Hungary:Budapest; Ireland:Dublin;
  Belgium:Brussels; Egypt:Cairo; Kenya:Nairobi; Japan:Tokyo; China:Beijing; Thailand:Bangkok; Peru:Lima; Cuba:Havana;
  Chile:Santiago; Russia:Moscow; Ukraine:Kyiv; Canada:Ottawa; Iraq:Baghdad; Iran:Tehran; Nepal:Kathmandu; Ghana:Accra;
  Morocco:Rabat; Bulgaria:Sofia`)

export const DAYS = words('Monday Tuesday Wednesday Thursday Friday Saturday Sunday')
export const MONTHS = words('January February March April May June July August September October November December')

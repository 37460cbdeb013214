"""The vocabulary of the sample: names, companies and pieces of sentences that fit together in any combination."""

from __future__ import annotations


def _words(text: str) -> list[str]:
    return text.split()


def _pieces(text: str) -> list[str]:
    return text.replace("\n", "").split("|")


FIRST_NAMES = _words("""
Ada Aisha Alexander Amelia Ana Anders Andrea Anna Antoine Astrid Beatriz Ben Björn Camila Carlos Charlotte Chen Chloe
Clara Daniel David Diego Dmitri Elena Elif Emily Emma Erik Fatima Felix Fernanda Finn Florence François Freya Gabriel
Georgia Giulia Grace Greta Hana Hannah Harper Hassan Helena Henrik Hugo Ibrahim Ingrid Isaac Isabella Ivan Jack Jade
James Jana Jasmine Jens João Johanna Jonas Jorge José Julia Jürgen Kaito Karin Katarzyna Kenji Kofi Lars Laura Layla
Lea Leo Leila Liam Lina Linh Lisa Louis Lucas Lucía Luis Magnus Maja Malik Marco Margaret Maria Marie Marta Martin
Mateo Matthew Maya Mei Mia Michael Miguel Mina Mohammed Monika Nadia Naomi Natalia Nathan Nia Nikolai Nina Noah Noor
Nora Oliver Olivia Omar Oscar Paolo Patricia Paul Pedro Petra Philip Pia Priya Quentin Rafael Rahul Rebecca Renée
Ricardo Rosa Ruben Sakura Samira Samuel Sara Sean Selin Simone Siobhán Sofia Søren Stefan Susan Sven Takumi Tamar
Tara Theo Thomas Tiago Tomás Ulrike Valentina Vera Victor Vikram William Xin Yara Yasmin Yuki Yusuf Zara Zoë
""")

LAST_NAMES = _words("""
Abbott Adeyemi Ahmed Almeida Andersen Andersson Baker Bauer Becker Bell Berg Bianchi Brown Bruun Campbell Carter
Castillo Chan Chavez Chen Clark Collins Costa Cruz Davies Diaz Dubois Duarte Edwards Ekström Evans Farah Ferrari
Fischer Fontaine Foster García Gomez González Gray Green Grøn Gupta Haddad Hansen Hartmann Hashimoto Hayes Hernández
Hill Hoffmann Huang Hughes Iversen Ivanov Jackson Jansen Jensen Johansson Jones Kaya Keller Khan Kim Klein Kowalski
Kumar Lambert Larsen Laurent Lee Lehmann Li Lindberg Lopez Lund Lynch Ma Martin Martinez Mendes Meyer Mitchell Moreau
Morgan Müller Murphy Nakamura Nelson Nguyen Nielsen Novak Nuñez O'Brien O'Neill Okafor Olsen Ortiz Osei Park Patel
Perez Peters Petrov Phillips Pinto Popescu Price Quinn Ramirez Rasmussen Reid Ribeiro Richter Rivera Roberts Rojas
Romano Rossi Russo Sánchez Santos Sato Schmidt Schneider Schwarz Shah Silva Singh Smith Sørensen Suzuki Takahashi
Tanaka Taylor Thomsen Torres Turner van-Dijk Vargas Vogel Wagner Walker Wang Watanabe Weber White Williams Wilson
Winter Wright Yamamoto Yildiz Young Zhang Zhou Zimmermann
""")

COMPANY_HEADS = _words("""
Acorn Alder Amber Anchor Apex Arbor Atlas Aurora Beacon Birch Blue Bright Cedar Cinder Clear Cobalt Compass Copper
Coral Crown Delta Drift Eastern Echo Elm Ember Evergreen Falcon Fern First Fjord Forge Foxglove Garnet Glacier Golden
Granite Green Harbor Hazel Heron High Horizon Indigo Iron Ivory Juniper Keystone Lantern Laurel Lumen Maple Marble
Meridian Metro Mill Mint Moss Nimbus North Northern Oak Ocean Olive Onyx Orchard Pacific Peak Pine Pioneer Polar
Prairie Quartz Raven Red Ridge River Rowan Saffron Sage Scarlet Silver Sky Slate Solar Spruce Stellar Stone Summit
Swift Terra Timber Union Valley Vertex Vista Walnut West Willow Zenith
""")

COMPANY_TAILS = _pieces("""
Analytics|Architects|Automotive|Bakery|Biotech|Brewing|Capital|Clinic|Components|Construction|Consulting|Dental|Design
|Digital|Dynamics|Education|Electric|Energy|Engineering|Events|Farms|Fitness|Foods|Freight|Furniture|Games|Health
|Holdings|Hotels|Insurance|Interiors|Labs|Law|Learning|Legal|Logistics|Machining|Maritime|Marketing|Media|Medical
|Mobility|Motors|Networks|Optics|Outdoor|Packaging|Partners|Pharma|Plastics|Press|Print|Properties|Recruiting
|Renewables|Research|Retail|Robotics|Security|Software|Solutions|Sports|Studios|Supply|Systems|Textiles|Tools|Trading
|Travel|Ventures|Water
""")

COMPANY_FORMS = ["Ltd", "GmbH", "Inc", "LLC", "S.A.", "AB", "ApS", "BV", "& Co", "Group", "S.L.", "AG"]

DOMAINS = ["example.com", "example.org", "example.net", "mail.example.com", "post.example.org", "corp.example.net"]

# A sentence is one piece of each list, in order; every combination must read as something a salesperson might type.
OPENINGS = _pieces("""
Spoke with|Called|Left a message for|Had a long call with|Met|Wrote to|Followed up with|Got a reply from|Had coffee with
|Demo for|Second call with|Quick check-in with|Intro by a partner to|Ran into|Video call with|Missed call from
|Rescheduled with|Heard back from|Sent the proposal to|Sent pricing to|Negotiated with|Walked the floor with
|Prepared the workshop with|Shared the case study with|Received a voicemail from|Answered questions from|Onsite with
|Chatted at the fair with|Renewal talk with|Technical session with|Reference call for|Cleared up the invoice with
""")

ROLES = _pieces("""
the head of operations|their CFO|the founder|the procurement lead|the office manager|the new IT director|two engineers
|the regional manager|the whole board|their assistant|the plant supervisor|the marketing team|the data protection officer
|the outgoing CTO|a consultant they hired|the head of sales|the warehouse team|their legal counsel|the finance team
|the support lead|the person who signs|a former customer of ours|the product owner|the training coordinator|the buyer
|the head of HR|the clinic director|the site engineer|their accountant|the COO
""")

TOPICS = _pieces("""
about the annual plan|about seats for the new branch|about moving off spreadsheets|about the integration with their ERP
|about single sign-on|about the data import|about a pilot in two regions|about last year's quote|about the service level
|about hosting in the EU|about the mobile app|about reporting|about a discount for three years|about onboarding dates
|about the security questionnaire|about replacing their current vendor|about the API limits|about audit trails
|about the contract wording|about multi-currency invoices|about training in Spanish|about their merger|about the backlog
|about the missing export|about the outage in spring|about custom fields|about the reseller terms|about the tender
|about payment in instalments|about who owns the data|about a switch to monthly billing|about lead routing
|about the webinar|about duplicate contacts|about their audit in the autumn|about warehouse scanners|about call recording
""")

OUTCOMES = _pieces("""
they want a revised quote|they need it in writing|no budget before the next quarter|very keen to start
|they compare us with two others|waiting for legal|asked for a reference in their sector|the board decides soon
|they like the timeline|price is the open point|they will come back to us|wants to see the roadmap
|agreed on the scope|the pilot was well received|they lost their sponsor|they are short of people
|a competitor undercut us|ready to sign|they found an error in the draft|asked for a longer trial
|they prefer to pay yearly|needs approval from headquarters|not a fit right now|they doubled the number of seats
|technical check passed|they asked for a call with support|wants to start small|happy with the answers
|worried about the migration|they went quiet|IT has to check the firewall|they signed an NDA|asked to pause until summer
""")

NEXT_STEPS = _pieces("""
send the contract|call again|prepare a demo with their own data|loop in engineering|ask finance for a discount
|book a meeting room|send the case study|update the forecast|chase the signature|write a summary|check the numbers
|share the security paper|set up a trial account|confirm the date|ask for the purchase order|send an invoice
|introduce the customer success team|wait for their mail|escalate to the director|review the scope|close as lost if quiet
|fix the address in the record|draft an amendment|plan the kick-off|collect the requirements
""")

SUBJECTS = _pieces("""
Call|Follow-up|Demo|Proposal|Contract|Pricing|Onboarding|Check-in|Renewal|Intro|Workshop|Invoice|Reference|Trial|Review
""")

TAGS = _words("""
emea apac latam dach nordics enterprise smb startup nonprofit public healthcare retail manufacturing saas partner inbound
outbound event webinar referral upsell churn-risk champion gdpr urgent
""")

CAMPAIGNS = _words("""
spring-launch autumn-roadshow retargeting newsletter-42 partner-week brand-search cold-list-b webinar-roi fair-hannover
linkedin-ops product-hunt pricing-page docs-footer podcast-17 refer-a-friend black-friday
""")

MONTHS = _words("January February March April May June July August September October November December")
